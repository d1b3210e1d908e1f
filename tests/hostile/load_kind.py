"""Eight clients of a server whose worker is killed and replaced, with an eye on memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from failing import first_line
from http_kind import ANSWER, HEALTH, STARTING, ServerProcess, exchange, request, status_of
from trials import Fault, Kind

CLIENTS = 8
PERIOD = float(os.environ.get("DLLAMA_KILL_PERIOD", "60"))  # seconds between kills
WARM = 3  # kills after which memory must stay
GROWTH = 64 << 20  # bytes that a process may grow by after that
BACK = 60.0  # seconds until the cluster must have formed again


class Worker:
    """`dllama worker` at an address that it gets again after it was killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.address = folder, "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        words = ["worker", "--quiet", "--threads", "1", "--listen", self.address]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dllama", *words],
            stdout=subprocess.PIPE, text=True, cwd=self._folder,
        )  # fmt: skip
        self.address = first_line(self.process).removeprefix("listening at ")

    def kill(self) -> None:
        with self.process as process:
            process.kill()


class Load(Kind):
    """Each trial is some time of work, and then a worker that dies."""

    seconds = PERIOD + 3 * BACK + STARTING

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._workers = [Worker(folder), Worker(folder)]
        self._server = ServerProcess(
            folder, "--quiet", "--timeout", "2", "--workers", *[w.address for w in self._workers]
        )
        self._wait_ready()
        self._kills, self._warm, self._faults = 0, {}, []
        self.statuses: Counter[int] = Counter()
        self._stopped = threading.Event()
        self._clients = [
            threading.Thread(target=self._ask, args=(random.Random(number),), daemon=True)
            for number in range(CLIENTS)
        ]
        for client in self._clients:
            client.start()

    def _ask(self, rng: random.Random) -> None:
        """Be a client: send requests until the end."""
        while not self._stopped.is_set():
            body = {
                "prompt": "ROMEO:\n" * rng.randint(1, 20), "max_tokens": rng.randint(1, 60),
                "stream": rng.random() < 0.5, "ignore_eos": True,
            }  # fmt: skip
            data = request("POST", "/v1/completions", json.dumps(body).encode())
            try:
                status = status_of(exchange(self._server.address, data, ANSWER + BACK))
            except Fault as fault:
                self._faults.append(str(fault))
                status = -1
            self.statuses[status] += 1
            if status != 200:
                time.sleep(0.2)

    def trial(self, rng: random.Random) -> bool:
        time.sleep(rng.uniform(0.5, 1.0) * PERIOD)
        before = self.statuses[200]
        worker = rng.choice(self._workers)
        worker.kill()
        time.sleep(rng.uniform(0.0, 3.0))
        worker.start()
        self._wait_ready()
        self._wait_text(before)
        self._kills += 1
        self._check_memory()
        wrong = {status for status in self.statuses if status not in (200, 503)}
        if wrong or self._faults:
            raise Fault(f"statuses {dict(self.statuses)}, {self._faults[:3]}")
        return True

    def _wait_ready(self) -> None:
        end = time.monotonic() + BACK + STARTING
        while status_of(exchange(self._server.address, request("GET", "/ready"), HEALTH)) != 200:
            if time.monotonic() > end:
                raise Fault("the cluster does not form again")
            time.sleep(0.1)

    def _wait_text(self, before: int) -> None:
        end = time.monotonic() + BACK
        while self.statuses[200] <= before:
            if time.monotonic() > end:
                raise Fault("no text comes after the cluster has formed again")
            time.sleep(0.1)

    def _check_memory(self) -> None:
        """Raise a Fault if the server or a worker has grown since the first kills."""
        now = {one.pid: resident(one.pid) for one in self._processes()}
        print(
            f"{self._kills} kills, {dict(self.statuses)}, MiB {[n >> 20 for n in now.values()]}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        if self._kills <= WARM:
            self._warm = now
        for pid, size in now.items():
            if size > self._warm.setdefault(pid, size) + GROWTH:
                raise Fault(f"{pid} grew from {self._warm[pid] >> 20} to {size >> 20} MiB")

    def _processes(self) -> list[subprocess.Popen[str]]:
        return [self._server.process, *(worker.process for worker in self._workers)]

    def close(self) -> None:
        self._stopped.set()
        for client in self._clients:
            client.join(ANSWER)
        for process in self._processes():
            with process:
                process.kill()


def resident(pid: int) -> int:
    """The resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


KINDS = {"load": Load}
