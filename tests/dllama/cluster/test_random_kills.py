"""Nodes that are killed or interrupted at random moments.

DLLAMA_KILLS: how many times.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from failing import (
    ROOT,
    SOON,
    STARTING,
    TIMEOUT,
    Later,
    addresses,
    check_service,
    first_line,
    talk,
)

import dllama
from dllama.model_path import DEMO

pytestmark = pytest.mark.slow

BUSY = "serves another root"  # says a worker that has not noticed the kill yet
NOTICED = ("the connection is closed", "given up, as another node failed")  # say those that have
# Says Python, with status 1, if Ctrl-C comes before it runs any program.
PYTHON_STARTS = b"Failed to import the site module"
KILLS = int(os.environ.get("DLLAMA_KILLS", "5"))


@pytest.fixture
def model(tmp_path):
    """A copy of the demo model; forget() makes it look like a new model to workers."""
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def forget(model: Path) -> None:
    """Change the model so that no worker has its weights."""
    file = model / "model.m"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000_000))


def moment(moments: random.Random) -> float:
    """Return a number of seconds: often during the start of a root, sometimes later."""
    return moments.uniform(0.0, 0.06 if moments.random() < 0.7 else 0.3)


def test_ctrl_c_at_any_moment_leaves_nothing(local_run):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for _ in range(KILLS):
        delay = moments.uniform(0.1, 0.8)
        with local_run() as root, Later(delay, lambda root=root: root.send_signal(signal.SIGINT)):
            _, errors = root.communicate(timeout=STARTING)
        if PYTHON_STARTS not in errors:
            statuses = (0, 130, -signal.SIGINT)
            assert root.returncode in statuses, f"seed {seed}, delay {delay}: {errors}"


def test_worker_killed_at_any_moment(start, expected, model):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    workers = start(2)
    options = {"threads": 1, "timeout": TIMEOUT}
    for round in range(KILLS):
        rank, delay = moments.randint(1, 2), moment(moments)
        case = f"seed {seed}, round {round}: worker {rank} killed after {delay:.4f} s"
        victim, survivor = workers[rank - 1], workers[2 - rank]
        forget(model)
        with (
            pytest.raises((dllama.TransportError, dllama.ProtocolError)) as error,
            Later(delay, lambda victim=victim: victim.signal(signal.SIGKILL)) as kill,
            dllama.LLM(model, workers=addresses(workers), **options) as llm,
        ):
            talk(llm)
        assert f"worker {rank}" in str(error.value), f"{case}: {error.value}"
        assert time.monotonic() - kill.at < TIMEOUT + SOON, case
        try:
            check_service([survivor], expected)
        except Exception as error:
            pytest.fail(f"{case}: then {error!r}")
        workers[rank - 1] = start()[0]


def test_root_killed_at_any_moment(start, expected, model):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    workers = start(2)
    for round in range(KILLS):
        delay = 2 * moment(moments)
        case = f"seed {seed}, round {round}: root killed after {delay:.4f} s"
        forget(model)
        command = [sys.executable, "-c", ROOT, str(model), *addresses(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
            assert first_line(root) == "begin"
            with Later(delay, root.kill):
                root.stdout.read()
        try:
            check_service(workers, expected)
        except Exception as error:
            pytest.fail(f"{case}: then {error!r}")
        complaints = [worker.complaints() for worker in workers]
        # A root that one worker refuses takes its leave of the other.
        refused = sum(BUSY in line for lines in complaints for line in lines)
        most = round + 1 + refused
        assert all(len(lines) <= most for lines in complaints), f"{case}: {complaints}"
        ends = [line for lines in complaints for line in lines if BUSY not in line]
        assert all(line.endswith(NOTICED) for line in ends), f"{case}: {complaints}"
