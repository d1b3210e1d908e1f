"""Trials in which a node of a cluster is killed, stopped or interrupted at a random moment."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from failing import (
    AT_ONCE,
    IDS,
    SOON,
    TIMEOUT,
    Later,
    WorkerProcess,
    addresses,
    check_service,
    talk,
)
from trials import Fault, Kind, accepted, check_text

import dllama

NODES = (2, 3)


class Kills(Kind):
    """Clusters of two or three nodes, one of which dies, stops for good or pauses."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._started = 0
        self._workers = [self._start() for _ in range(NODES[-1] - 1)]
        with dllama.LLM(threads=1) as llm:
            self._expected = llm.eval(IDS)

    def _start(self) -> WorkerProcess:
        self._started += 1
        worker = WorkerProcess(self.folder, self._started, "blocking", "", ())
        assert worker.address
        return worker

    def trial(self, rng: random.Random) -> bool:
        workers = self._workers[: rng.choice(NODES) - 1]
        victim, fault = rng.choice(workers), rng.choice([self._kill, self._stop, self._pause])
        delay = rng.uniform(0.0, 0.06 if rng.random() < 0.5 else 0.5)
        pause, name = rng.choice([0.05, 0.5]), f"worker {workers.index(victim) + 1}"
        try:
            with Later(delay, lambda: fault(victim, pause)) as later:
                good = accepted(lambda: self._work(workers, delay), name)
                ended = time.monotonic()
        finally:
            self._mend(victim)  # also for the trials that follow a fault
        late = ended - later.at
        if fault != self._pause and good and later.at < ended:
            raise Fault(f"{fault.__name__} after {delay:.4f} s was not noticed")
        if not good and late > TIMEOUT + SOON + pause:
            raise Fault(f"{fault.__name__} after {delay:.4f} s was noticed after {late:.1f} s")
        self._check()
        return good

    def _work(self, workers: list[WorkerProcess], delay: float) -> None:
        """Generate until well after the fault."""
        options = {"threads": 1, "timeout": TIMEOUT, "progress": False}
        with dllama.LLM(workers=addresses(workers), **options) as llm:
            talk(llm, delay + 1.5)

    def _kill(self, victim: WorkerProcess, _: float) -> None:
        victim.signal(signal.SIGKILL)

    def _stop(self, victim: WorkerProcess, _: float) -> None:
        victim.signal(signal.SIGSTOP)

    def _pause(self, victim: WorkerProcess, seconds: float) -> None:
        victim.signal(signal.SIGSTOP)
        time.sleep(seconds)
        victim.signal(signal.SIGCONT)

    def _mend(self, victim: WorkerProcess) -> None:
        """Let a worker go on that was stopped, or replace it."""
        victim.signal(signal.SIGCONT)
        time.sleep(0.05)
        if not victim.alive():
            check_text("\n".join(victim.complaints()))
            victim.stop()
            self._workers[self._workers.index(victim)] = self._start()

    def _check(self) -> None:
        try:
            check_service(self._workers, self._expected, 2 * TIMEOUT + AT_ONCE)
        except (dllama.DllamaError, AssertionError) as error:
            raise Fault(f"then the workers do not serve: {error!r}") from error

    def close(self) -> None:
        for worker in self._workers:
            lines = worker.complaints()
            worker.stop()
            check_text("\n".join(lines))


KINDS = {"kills": Kills}
