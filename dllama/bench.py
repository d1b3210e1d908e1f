"""Clusters compared: the same work on several layouts, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from typing import Any

import numpy as np

from dllama.engine import LLM
from dllama.errors import ConfigError
from dllama.options import DEFAULT_PROMPT_TOKENS
from dllama.runtime.trace import NodePass

WARM_UP = 4  # tokens


@dataclass(frozen=True)
class Case:
    """One layout: how many nodes, and how they talk; None where there is one node."""

    nodes: int
    transport: str | None = None
    buffer: str | None = None
    all_reduce: str | None = None


@dataclass(frozen=True)
class Work:
    """What every case does: a prompt, then `steps` tokens, whether a text would end or not.

    Args:
        steps: tokens to generate.
        prompt: ids, of which the first prompt_tokens are taken; None: random ones.
        prompt_tokens: None: all that are given, or DEFAULT_PROMPT_TOKENS random ones.
        sampling: arguments of generate.
    """

    steps: int
    prompt: Callable[[LLM], Sequence[int]] | None = None
    prompt_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.0})

    def ids(self, llm: LLM) -> list[int]:
        """The prompt; ConfigError where it is too short, or does not fit with what follows."""
        count = self.prompt_tokens
        if self.prompt is None:
            count = count or DEFAULT_PROMPT_TOKENS
            random = np.random.default_rng(1)
            ids: list[int] = random.integers(0, llm.spec.vocab_size, count).tolist()
        else:
            ids = list(self.prompt(llm))[:count]
        if len(ids) < (count or 1):
            raise ConfigError(f"the prompt has {len(ids)} tokens, expected {count or 1}")
        if len(ids) + self.steps > llm.seq_len:
            raise ConfigError(f"{len(ids)} + {self.steps} tokens, expected at most {llm.seq_len}")
        return ids


@dataclass(frozen=True)
class Result:
    """Medians over the repeats of a case, per generated token where not said otherwise.

    Times in milliseconds, bytes at the root; speed_up: against one node, if that is a case.
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
    speed_up: float | None

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
    work: Work,
    *,
    repeats: int,
    progress: Callable[[], object] = lambda: None,
    timelines: list[NodePass] | None = None,
) -> list[Result]:
    """Every case `repeats` times, in turns, so that what disturbs the machine disturbs all.

    timelines: takes those that the models keep. ConfigError where the work does not fit.
    """
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in todo}
    buffers: dict[Case, str] = {}
    for _ in range(repeats):
        for case in todo:
            with open_llm(case) as llm:
                samples[case].append(_sample(llm, work))
                buffers[case] = llm.buffer
                if timelines is not None:
                    timelines += llm.timelines
            progress()
    return list(_results(samples, buffers))


def _sample(llm: LLM, work: Work) -> dict[str, float]:
    """The averages of one run, after a short one that warms up."""
    ids = work.ids(llm)
    for count in (WARM_UP, work.steps):
        llm.reset()
        for _ in llm.generate(ids, count, ignore_eos=True, **work.sampling):
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
            speed_up=median["tokens_per_s"] / base if base else None,
        )
