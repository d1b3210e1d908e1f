"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chat_model import make
from standing import StandingWorkers

from dllama.converter import convert

FIXTURES = Path(__file__).parent / "fixtures"
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def away_from_the_sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """So that `python -m dllama` runs the package that is installed."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """So that what tests start heeds Ctrl-C; background jobs of a shell begin deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of small Hugging Face models with reference logits by transformers."""
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
    """A model folder with a tokenizer and a chat template; its weights are random."""
    return make(FIXTURES / "llama-gqa", tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingWorkers]:
    """Workers of one thread that run already, for tests that are not about starting them."""
    workers = StandingWorkers(tmp_path_factory.mktemp("standing"))
    yield workers
    workers.close()


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)
