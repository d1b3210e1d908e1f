"""Workers on this machine, started and stopped by the root."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dllama._kernels import cpu
from dllama.cluster.domains import divide_cores
from dllama.errors import TransportError
from dllama.scratch import Scratch
from dllama.transports import Transport

READY = "listening at "
# Runs this very package, wherever `python -m` would look first.
START = "import sys; sys.path[:] = {path!r}; from dllama.cli import main; sys.exit(main())"
STARTING = 60.0  # seconds that Python may take to start on a slow machine
LEAVING = 1.0  # seconds


class LocalWorkers:
    """Worker processes for one root, this process. Call stop, whatever happens.

    If there are enough cores, every node gets its own.

    Args:
        transport: how nodes are connected.
        threads: of every node by rank, the root included.

    Raises:
        TransportError: a worker did not start; the message has its last line.
    """

    def __init__(self, transport: Transport, threads: Sequence[int]) -> None:
        self.secret = secrets.token_hex(32).encode()
        self.addresses: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._logs: list[IO[str]] = []
        self._before = cpu.allowed()
        sets = divide_cores(threads)
        self._sockets = Scratch(Path(tempfile.gettempdir()), ".dllama-")
        try:
            for rank in range(1, len(threads)):
                own = sets[rank] if sets else None
                self._processes.append(self._start(rank, transport, threads[rank], own))
            end = time.monotonic() + STARTING
            self.addresses = [self._address(process, end) for process in self._processes]
            _pin(sets[0] if sets else None)
        except BaseException:
            self.stop(wait=False)
            raise

    def stop(self, wait: bool = True) -> None:
        """End all workers and remove what they left. A second call does nothing.

        Args:
            wait: give them time to end by themselves, as they do once the root has disconnected.
        """
        end = time.monotonic() + LEAVING * wait
        try:
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
        finally:  # after another signal, too
            self._kill()
        if self._processes:
            _pin(self._before)
        for log in self._logs:
            log.close()
        self._processes = []
        self.forget_addresses()

    def _kill(self) -> None:
        """End all workers that are still there."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def forget_addresses(self) -> None:
        """Remove the socket files. Nobody needs them once all nodes are connected."""
        self._sockets.remove()

    def pids(self) -> list[int]:
        """Return the process ids, by rank from 1 on."""
        return [process.pid for process in self._processes]

    def _start(
        self, rank: int, transport: Transport, threads: int, cpus: Sequence[int] | None
    ) -> subprocess.Popen[str]:
        """Start a worker that Ctrl-C does not reach: the root ends it.

        It has the CPUs of the thread that starts it, so that all of its memory is near them.
        """
        address = transport.local_address(self._sockets.path, rank)
        command = [sys.executable, "-c", START.format(path=sys.path), "worker", "--once", "--quiet"]
        command += ["--listen", address, "--threads", str(threads)]
        environment = {**os.environ, "DLLAMA_SECRET": self.secret.decode()}
        self._logs.append(tempfile.TemporaryFile("w+", errors="replace"))  # noqa: SIM115 (in stop)
        _pin(cpus)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._logs[-1],
                text=True,
                env=environment,
                start_new_session=True,
            )
        finally:
            _pin(self._before)

    def _address(self, process: subprocess.Popen[str], end: float) -> str:
        """Wait for a worker's first line, and return the address in it."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        line = process.stdout.readline().strip() if ready else ""
        if line.startswith(READY):
            return line.removeprefix(READY)
        rank = self._processes.index(process) + 1
        log = self._logs[rank - 1]
        log.seek(0)
        said = log.read().strip().splitlines()
        why = said[-1] if said else f"it said nothing within {STARTING:g} s"
        raise TransportError(f"local worker {rank} did not start: {why}")


def _pin(cpus: Sequence[int] | None) -> None:
    """Keep this thread on some CPUs, if the system allows it."""
    if cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)
