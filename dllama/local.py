"""Workers on this machine, started and stopped by the root."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dllama._kernels import cpu
from dllama.errors import TransportError
from dllama.transports import Transport

READY = "listening at "
STARTING = 60.0  # seconds that Python may take to start on a slow machine
LEAVING = 1.0


class LocalWorkers:
    """`count` worker processes for one root, this process; stop them, in any case.

    threads: per node. Where the cores suffice, every node, the root included, gets cores of
    its own. TransportError, with what the worker said, if one does not start.
    """

    def __init__(self, count: int, transport: Transport, threads: int) -> None:
        self.secret = secrets.token_hex(32).encode()
        self.addresses: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="dllama-"))
        self._before = cpu.allowed()
        sets = divide_cores(count + 1, threads)
        try:
            for rank in range(1, count + 1):
                self._processes.append(self._start(rank, transport, threads))
                _pin(self._processes[-1].pid, sets[rank] if sets else None)
            end = time.monotonic() + STARTING
            self.addresses = [self._address(process, end) for process in self._processes]
            _pin(0, sets[0] if sets else None)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all of them, and remove what they left; a second call does nothing."""
        end = time.monotonic() + LEAVING
        for process in self._processes:  # they leave by themselves when the root hangs up
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        if self._processes:
            _pin(0, self._before)
        self._processes = []
        shutil.rmtree(self._folder, ignore_errors=True)

    def pids(self) -> list[int]:
        """Process ids, by rank from 1 on."""
        return [process.pid for process in self._processes]

    def _start(self, rank: int, transport: Transport, threads: int) -> subprocess.Popen[str]:
        """One worker, in a session of its own, so that Ctrl-C reaches the root only."""
        address = "127.0.0.1:0"
        if transport.scheme == "unix":
            address = f"unix:{self._folder}/{rank}.sock"
        elif transport.scheme != "tcp":
            address = f"{transport.scheme}://{address}"
        command = [sys.executable, "-m", "dllama", "worker", "--once", "--quiet"]
        command += ["--listen", address, "--threads", str(threads)]
        environment = {**os.environ, "DLLAMA_SECRET": self.secret.decode()}
        with (self._folder / f"{rank}.log").open("w") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )

    def _address(self, process: subprocess.Popen[str], end: float) -> str:
        """Where a worker listens, as its first line says."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
        line = process.stdout.readline().strip() if ready else ""
        if line.startswith(READY):
            return line.removeprefix(READY)
        rank = self._processes.index(process) + 1
        said = (self._folder / f"{rank}.log").read_text(errors="replace").strip().splitlines()
        why = said[-1] if said else f"no answer within {STARTING:g} s"
        raise TransportError(f"local worker {rank} did not start: {why}")


def divide_cores(nodes: int, threads: int) -> list[list[int]] | None:
    """CPUs for every node, disjoint; None where there are too few cores."""
    cores = cpu.cores()
    if nodes * threads > len(cores) or not hasattr(os, "sched_setaffinity"):
        return None
    return [
        [number for core in cores[node * threads : (node + 1) * threads] for number in core]
        for node in range(nodes)
    ]




def _pin(pid: int, cpus: Sequence[int] | None) -> None:
    """Keep a process (0: this one) to some CPUs; where that is not allowed, it is not kept."""
    if cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cpus)
