"""The benchmark: the same work on several layouts of nodes, in turns."""

from __future__ import annotations

import statistics
import time
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
        parallel: how many texts are generated at once.
    """

    nodes: int
    transport: str | None = None
    buffer: str | None = None
    all_reduce: str | None = None
    parallel: int = 1


@dataclass(frozen=True)
class Work:
    """What every case does: evaluate a prompt, then generate tokens, even after an end of text.

    Several texts have prompts of the same length that begin with different tokens.

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

    def prompts(self, llm: LLM) -> list[list[int]]:
        """Return the ids of a prompt for each text; ConfigError if these are too few or many."""
        ids = self._ids(llm)
        turns = [n % len(ids) for n in range(llm.parallel)]
        return [ids[turn:] + ids[:turn] for turn in turns]

    def _ids(self, llm: LLM) -> list[int]:
        """Return the ids of the prompt."""
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

    Times and bytes are the root's, per generated token. first_token_ms is the median over the texts
    of the time until the first token. tokens_per_s counts the tokens of all texts. speed_up
    compares with as many texts on one node; it is None if that is not a case.
    """

    nodes: int
    transport: str | None
    buffer: str | None
    all_reduce: str | None
    parallel: int
    total_ms: float
    inference_ms: float
    transfer_ms: float
    sent_kb: float
    received_kb: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    first_token_ms: float
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
    parallels: Sequence[int] = (1,),
) -> list[Case]:
    """Return all combinations. One node is connected in one way only."""
    several = sorted({count for count in nodes if count > 1})
    texts = sorted(set(parallels))
    found = [Case(1, parallel=count) for count in texts] if 1 in nodes else []
    together = product(several, transports, buffers, all_reduces, texts)
    return found + [Case(*one) for one in together]


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
    prompts = work.prompts(llm)
    firsts: dict[int, float] = {}
    for count in (WARM_UP, work.max_tokens):
        llm.reset()
        firsts, begin = {}, time.perf_counter()
        for number, _ in llm.generate_many(prompts, count, ignore_eos=True, **work.sampling):
            firsts.setdefault(number, time.perf_counter() - begin)
    return {**llm.stats.summary(), "first_token_ms": 1e3 * statistics.median(firsts.values())}


def _results(
    samples: dict[Case, list[dict[str, float]]], buffers: dict[Case, str]
) -> Iterator[Result]:
    """Yield the medians of every case."""
    for case, runs in samples.items():
        alone = samples.get(Case(1, parallel=case.parallel), [])
        base = statistics.median(run["tokens_per_s"] for run in alone) if alone else 0.0
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        yield Result(
            nodes=case.nodes,
            transport=case.transport,
            buffer=buffers[case] if case.nodes > 1 else None,
            all_reduce=(case.all_reduce or "auto") if case.nodes > 1 else None,
            parallel=case.parallel,
            total_ms=median["avg_total_ms"],
            inference_ms=median["avg_inference_ms"],
            transfer_ms=median["avg_transfer_ms"],
            sent_kb=median["avg_sent_bytes"] / 1000,
            received_kb=median["avg_received_bytes"] / 1000,
            tokens_per_s=median["tokens_per_s"],
            prompt_tokens_per_s=median["prompt_tokens_per_s"],
            first_token_ms=median["first_token_ms"],
            speed_up=median["tokens_per_s"] / base if base else None,
        )
