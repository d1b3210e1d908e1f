"""Fixtures that several test files share."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Before OpenMP and NumPy are loaded. Several processes test at once, so a thread that waits for
# another had better leave it the CPU, and NumPy needs no threads of its own.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from chat_model import make
from made_speeds import keep_speeds
from standing import StandingWorkers

from dllama.converter import convert
from dllama.runtime import speed

FIXTURES = Path(__file__).parent / "fixtures"
DATA = Path(__file__).parent / "data"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process more than processors: a quarter of the time, a test waits for a timeout."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session", autouse=True)
def away_from_the_sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the source tree, so that `python -m dllama` runs the installed package."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what commands note for later out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        keep_speeds()
        yield


@pytest.fixture(scope="session", autouse=True)
def heeded_hangups() -> None:
    """Heed SIGHUP, also if the tests run under nohup: what they start would ignore it too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def no_loss_of_power() -> Iterator[None]:
    """Do not wait for the disk: what tests write need not outlive this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses a closed file too
        yield


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Make child processes react to Ctrl-C, which a shell's background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of small Hugging Face models with reference logits from transformers."""
    return FIXTURES


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test texts."""
    return DATA


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Model folder of a fixture in a float type; each is converted once."""
    done: dict[tuple[str, str], Path] = {}

    def get(name: str, weights: str) -> Path:
        if (name, weights) not in done:
            output = tmp_path_factory.mktemp(f"{name}-{weights}") / "model"
            convert(FIXTURES / name, output, weights, threads=2, progress=False)
            done[name, weights] = output
        return done[name, weights]

    return get


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer, a chat template and random weights."""
    return make(FIXTURES / "llama-gqa", tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingWorkers]:
    """Running workers with one thread, for tests that do not test the start."""
    workers = StandingWorkers(tmp_path_factory.mktemp("standing"))
    yield workers
    workers.close()


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Commands that run in this process set the levels of dllama's loggers: forget them."""
    yield
    for name in ("dllama", "dllama.engine", "dllama.worker", "dllama.serve"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def quick_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure little of the kernels, for a short time."""
    quick = {"LEAST_BYTES": 1 << 16, "PASS_BYTES": 1 << 14, "CACHES": 0, "ROWS": 64, "COLUMNS": 512}
    for name, value in {**quick, "SHORT": 0.001, "LONG": 0.002}.items():
        monkeypatch.setattr(speed, name, value)
