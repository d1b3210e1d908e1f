"""Clusters compared: the same work on several layouts, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

import numpy as np

from dllama.engine import LLM
from dllama.errors import ConfigError

WARM_UP = 4  # tokens


@dataclass(frozen=True)
class Case:
    """One layout: how many nodes, and how they talk; None where there is one node."""

    nodes: int
    transport: str | None = None
    buffer: str | None = None
    all_reduce: str | None = None


@dataclass(frozen=True)
class Result:
    """Medians over the repeats of a case, per generated token where not said otherwise.

    Times in milliseconds, bytes at the root; speed_up: against the first case of one node.
    """

    nodes: int
    transport: str | None
    buffer: str | None
    all_reduce: str | None
    total_ms: float
    inference_ms: float
    transfer_ms: float
    sent_kb: float
    received_kb: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    speed_up: float

    def as_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(Result))


def cases(
    nodes: Sequence[int],
    transports: Sequence[str | None],
    buffers: Sequence[str | None],
    all_reduces: Sequence[str | None],
) -> list[Case]:
    """All combinations; one node is one case."""
    found = [Case(1)] if 1 in nodes else []
    several = sorted({count for count in nodes if count > 1})
    return found + [Case(*one) for one in product(several, transports, buffers, all_reduces)]


def measure(
    open_llm: Callable[[Case], LLM],
    todo: Sequence[Case],
    *,
    prompt_tokens: int,
    steps: int,
    repeats: int,
    progress: Callable[[], object] = lambda: None,
) -> list[Result]:
    """Every case `repeats` times, in turns, so that what disturbs the machine disturbs all.

    A prompt of prompt_tokens ids, then `steps` greedy tokens. ConfigError where they do not fit.
    """
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in todo}
    buffers: dict[Case, str] = {}
    for _ in range(repeats):
        for case in todo:
            with open_llm(case) as llm:
                samples[case].append(_sample(llm, prompt_tokens, steps))
                buffers[case] = llm.buffer
            progress()
    return list(_results(samples, buffers))


def _sample(llm: LLM, prompt_tokens: int, steps: int) -> dict[str, float]:
    """The averages of one run, after a short one that warms up."""
    if prompt_tokens + steps > llm.seq_len:
        raise ConfigError(f"{prompt_tokens} + {steps} tokens, expected at most {llm.seq_len}")
    ids = np.random.default_rng(1).integers(0, llm.spec.vocab_size, prompt_tokens).tolist()
    for count in (WARM_UP, steps):
        llm.reset()
        for _ in llm.generate(ids, count, temperature=0.0, ignore_eos=True):
            pass
    return llm.stats.summary()


def _results(
    samples: dict[Case, list[dict[str, float]]], buffers: dict[Case, str]
) -> Iterator[Result]:
    """Medians of every case."""
    alone = samples.get(Case(1), [])
    base = statistics.median(run["tokens_per_s"] for run in alone) if alone else 0.0
    for case, runs in samples.items():
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        yield Result(
            nodes=case.nodes,
            transport=case.transport,
            buffer=buffers[case] if case.nodes > 1 else None,
            all_reduce=(case.all_reduce or "auto") if case.nodes > 1 else None,
            total_ms=median["avg_total_ms"],
            inference_ms=median["avg_inference_ms"],
            transfer_ms=median["avg_transfer_ms"],
            sent_kb=median["avg_sent_bytes"] / 1000,
            received_kb=median["avg_received_bytes"] / 1000,
            tokens_per_s=median["tokens_per_s"],
            prompt_tokens_per_s=median["prompt_tokens_per_s"],
            speed_up=median["tokens_per_s"] / base if base else 0.0,
        )
