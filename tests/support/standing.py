"""Workers that many tests share, because starting Python takes most of a small cluster's time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dllama import transports

READY = "listening at "


class StandingWorkers:
    """`dllama worker` processes with one thread each, started on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        self._addresses: dict[str, list[str]] = {}

    def __call__(self, count: int, transport: str = "unix") -> list[str]:
        """Return the addresses of `count` workers that a transport can reach."""
        known = self._addresses.setdefault(transports.get(transport).scheme, [])
        started = [self._start(transport, index) for index in range(len(known), count)]
        known += [self._address(process) for process in started]
        return known[:count]

    def close(self) -> None:
        """Stop all of them and check that none has failed."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            assert process.wait(30) == 0
            assert process.stdout is not None
            process.stdout.close()

    def _start(self, transport: str, index: int) -> subprocess.Popen[str]:
        address = transports.get(transport).local_address(self._folder, index)
        words = ["-m", "dllama", "worker", "--quiet", "--threads", "1", "--listen", address]
        self._processes.append(
            subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        )
        return self._processes[-1]

    def _address(self, process: subprocess.Popen[str]) -> str:
        """Return where a worker listens, according to its first line."""
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith(READY), line
        return line.removeprefix(READY)
