"""Worker processes to kill and stop, and time limits for what must happen then."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

import dllama
from dllama import transports

TIMEOUT = 1.5
SOON = 2.5  # seconds that a busy machine may add to any time limit
CALM = 20.0  # a timeout that nothing should reach
AT_ONCE = 8.0  # seconds that a busy machine may take for something immediate
STARTING = 30.0  # seconds that Python may take to start
PROMPT = "ROMEO:\n"
IDS = [5, 9, 17, 300, 41, 2]
ROOT = """
import sys, dllama
print("begin", flush=True)
with dllama.LLM(sys.argv[1], workers=sys.argv[2:], threads=1, timeout=1.5) as llm:
    while True:
        llm.reset()
        for token in llm.generate("ROMEO:\\n", ignore_eos=True):
            print(token.id, flush=True)
"""


class WorkerProcess:
    """A process that runs `dllama worker`."""

    def __init__(self, folder: Path, number: int, transport: str, secret: str, options) -> None:
        listen = transports.get(transport).local_address(folder, number)
        self._log = folder / f"{number}.log"
        self._address = ""
        command = [sys.executable, "-m", "dllama", "worker", "--listen", listen]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--threads", "1", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "DLLAMA_SECRET": secret},
            )

    @property
    def address(self) -> str:
        """Where it listens; waits until it does."""
        if not self._address:
            self._address = first_line(self._process).removeprefix("listening at ")
        return self._address

    def signal(self, number: int) -> None:
        """Send a signal. SIGSTOP has stopped the process on return."""
        self._process.send_signal(number)
        state = Path(f"/proc/{self._process.pid}/stat")
        while number == signal.SIGSTOP and state.read_text().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.001)

    def alive(self) -> bool:
        return self._process.poll() is None

    def complaints(self) -> list[str]:
        """Return all lines of the log above level INFO."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if not line.startswith("dllama: INFO:")]

    def stop(self) -> None:
        with self._process as process:
            process.kill()


class Later:
    """Runs an action after some seconds.

    Attributes:
        at: when it ran.
    """

    def __init__(self, seconds: float, action) -> None:
        self.at = float("inf")
        self._action = action
        self._timer = threading.Timer(seconds, self._do)

    def _do(self) -> None:
        self.at = time.monotonic()
        self._action()

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *error):
        self._timer.cancel()
        self._timer.join()


def first_line(process: subprocess.Popen) -> str:
    ready, _, _ = select.select([process.stdout], [], [], STARTING)
    assert ready, "the process says nothing"
    return process.stdout.readline().strip()


def addresses(workers) -> list[str]:
    return [worker.address for worker in workers]


def name(rank: int, address: str) -> str:
    """Return a pattern for the name of a worker in error messages."""
    return re.escape(f"worker {rank} ({address})")


def wait_until(condition, seconds: float) -> bool:
    """Whether a condition becomes true within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def check_service(workers, expected, seconds=TIMEOUT + AT_ONCE, **options) -> None:
    """Check that workers serve a root correctly, once they have noticed the end of another one."""
    shares = [1.0] * (len(workers) + 1)  # who measures needs memory, files and time
    options = {"threads": 1, "timeout": CALM, "buffer": "f32", "shares": shares, **options}
    end = time.monotonic() + seconds
    while True:
        try:
            with dllama.LLM(workers=addresses(workers), **options) as llm:
                error = np.abs(llm.eval(IDS) - expected).max()
            break
        except dllama.ProtocolError as refusal:
            if "serves another root" not in str(refusal) or time.monotonic() > end:
                raise
            time.sleep(0.01)
    assert error < 0.05 * expected.std()


def talk(llm: dllama.LLM, seconds: float = 30.0) -> None:
    """Generate texts until an error is raised."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        llm.reset()
        for _ in llm.generate(PROMPT, ignore_eos=True):
            pass


def marked(mark: str) -> list[int]:
    """Return the processes with a mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found
