"""Workers that one test after another uses: most of a small cluster's time is Python's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

READY = "listening at "


class StandingWorkers:
    """`dllama worker` processes of one thread, started when first asked for; close them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        self._addresses: dict[str, list[str]] = {"tcp": [], "unix": []}

    def __call__(self, count: int, transport: str = "unix") -> list[str]:
        """Addresses of `count` workers that a transport can reach."""
        scheme = "unix" if transport == "unix" else "tcp"
        known = self._addresses[scheme]
        started = [self._start(scheme, index) for index in range(len(known), count)]
        known += [self._address(process) for process in started]
        return known[:count]

    def close(self) -> None:
        """End all of them; none may have failed."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            assert process.wait(30) == 0
            assert process.stdout is not None
            process.stdout.close()

    def _start(self, scheme: str, index: int) -> subprocess.Popen[str]:
        address = "127.0.0.1:0" if scheme == "tcp" else f"unix:{self._folder}/{index}"
        words = ["-m", "dllama", "worker", "--quiet", "--threads", "1", "--listen", address]
        self._processes.append(
            subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        )
        return self._processes[-1]

    def _address(self, process: subprocess.Popen[str]) -> str:
        """Where a worker listens, as its first line says."""
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith(READY), line
        return line.removeprefix(READY)
