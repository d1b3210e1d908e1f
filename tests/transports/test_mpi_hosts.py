"""The transport mpi over several hosts: ranks of one job that have nothing but TCP between them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi_hosts import MPICH, OPEN_MPI, Job, library_of, mpi_hosts
from namespaces import need_namespaces, network

import dllama

PLACES = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
LIMIT = 60.0  # seconds
HOSTS = 3
RUN = ("-m", "dllama", "run", "--transport", "mpi", "--threads", "1", "--temperature", "0")
TEXT = ("MACBETH:\n", "--quiet", "--buffer", "f32", "--ignore-eos", "--steps")
# How launchers name a lost rank. Open MPI may only say what those that are left have noticed.
LOST = {OPEN_MPI: "node1|Socket closed", MPICH: "RUNNING AT node1"}


@pytest.fixture(params=[OPEN_MPI, MPICH])
def job(request: pytest.FixtureRequest) -> Iterator[Job]:
    """Three hosts, and the launcher of this library."""
    found = [shutil.which(name, path=PLACES) for name in ("mpirun", "mpiexec.hydra")]
    launchers = [name for name in found if library_of(name) == request.param]
    if not launchers or importlib.util.find_spec("mpi4py") is None:
        pytest.skip(f"needs mpi4py and mpirun of {request.param}")
    need_namespaces()
    with network(HOSTS) as nodes, mpi_hosts(nodes, launchers[0]) as job:
        yield job


def test_hosts_give_the_text_of_one_node(job):
    with dllama.LLM(threads=1) as llm:
        text = "".join(t.text for t in llm.generate("MACBETH:\n", 24, temperature=0))
    words = job.command("-n", HOSTS, sys.executable, *RUN, *TEXT, 24)
    found = subprocess.run(
        words, capture_output=True, text=True, env=job.environment, timeout=LIMIT
    )
    assert (found.stdout, found.stderr, found.returncode) == (text + "\n", "", 0)
    shards = 800_000  # bytes of weights that the root sends each of the others, at least
    assert job.sent(0) > (HOSTS - 1) * shards
    assert job.sent(1) > 100_000


def test_a_killed_rank_ends_all_hosts_with_a_message(job):
    words = job.command("-n", HOSTS, sys.executable, *RUN, *TEXT, 450)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=job.environment
    ) as launcher:
        assert launcher.stdout.read(5)
        (rank,) = [process for process in job.processes(1) if is_rank(process)]
        os.kill(rank, signal.SIGKILL)
        said, _ = launcher.communicate(timeout=LIMIT)
    assert launcher.returncode != 0
    assert re.search(LOST[library_of(job.launcher[0])], said), said
    assert all_gone(job)


def is_rank(process: int) -> bool:
    """Whether a process is dllama, and not what started it."""
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"dllama"]


def all_gone(job: Job) -> bool:
    """Wait until no process is left on any host."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if not any(job.processes(rank) for rank in range(HOSTS)):
                return True
        time.sleep(0.02)
    return False
