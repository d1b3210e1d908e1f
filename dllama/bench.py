"""The benchmark: the same work on several layouts of nodes, in turns."""

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
    """One layout.

    Args:
        nodes: how many.
        transport: how they are connected; None for one node.
        buffer: type of the numbers that they add up; None for one node, or for the default.
        all_reduce: how they add up; None for one node, or for the default.
    """

    nodes: int
    transport: str | None = None
    buffer: str | None = None
    all_reduce: str | None = None


@dataclass(frozen=True)
class Work:
    """What every case does: evaluate a prompt, then generate tokens, even after an end of text.

    Args:
        max_tokens: tokens to generate.
        prompt: gives the ids of a text for a model; None for random ids.
        prompt_tokens: how many of these to take; None for all, or DEFAULT_PROMPT_TOKENS random
            ones.
        sampling: arguments of LLM.generate.
    """

    max_tokens: int
    prompt: Callable[[LLM], Sequence[int]] | None = None
    prompt_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.0})

    def ids(self, llm: LLM) -> list[int]:
        """Return the ids of the prompt; ConfigError if it is too short or too long."""
        count = self.prompt_tokens
        if self.prompt is None:
            count = count or DEFAULT_PROMPT_TOKENS
            random = np.random.default_rng(1)
            ids: list[int] = random.integers(0, llm.spec.vocab_size, count).tolist()
        else:
            ids = list(self.prompt(llm))[:count]
        if len(ids) < (count or 1):
            raise ConfigError(f"the prompt has {len(ids)} tokens, expected {count or 1}")
        if len(ids) + self.max_tokens > llm.seq_len:
            total = f"{len(ids)} + {self.max_tokens}"
            raise ConfigError(f"{total} tokens, expected at most {llm.seq_len}")
        return ids


@dataclass(frozen=True)
class Result:
    """The medians over all repeats of a case.

    Times and bytes are the root's, per generated token. speed_up compares with one node; it is None
    if that is not a case.
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
        """Return the figures by name."""
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(Result))


def cases(
    nodes: Sequence[int],
    transports: Sequence[str | None],
    buffers: Sequence[str | None],
    all_reduces: Sequence[str | None],
) -> list[Case]:
    """Return all combinations. One node is a single case."""
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
    """Run all cases in turns, so that what disturbs the machine disturbs all of them.

    Args:
        open_llm: opens the model for a case; it is closed after each run.
        todo: the cases.
        work: what each does.
        repeats: runs of each case.
        progress: called after each run.
        timelines: a list to which those of the models are added; None to drop them.

    Returns:
        The results, in the order of the cases.

    Raises:
        ConfigError: the work does not fit.
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
    """Return the averages of one run, after a short one that warms up."""
    ids = work.ids(llm)
    for count in (WARM_UP, work.max_tokens):
        llm.reset()
        for _ in llm.generate(ids, count, ignore_eos=True, **work.sampling):
            pass
    return llm.stats.summary()


def _results(
    samples: dict[Case, list[dict[str, float]]], buffers: dict[Case, str]
) -> Iterator[Result]:
    """Yield the medians of every case."""
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
