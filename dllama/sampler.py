"""Sampling: from logits to the next token id.

The filters and their order are those of Hugging Face transformers: repetition penalty,
temperature, top-k, top-p, min-p. What is drawn from the rest is the token with the largest
logit / temperature + Gumbel noise, where the noise is a function of seed, step and token id:
so the vocabulary may be cut into slices, each of which is asked for little, and the result
is the same.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dllama._kernels import sampling
from dllama.errors import ConfigError, ModelError

FIRST_CANDIDATES = 64
MAX_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class SamplerConfig:
    """How to choose a token; ConfigError for a value out of range.

    temperature: 0 takes the best token. top_p: keep the fewest best tokens that together
    have this probability. top_k: keep the k best (0: all). min_p: keep tokens at least this
    probable, relative to the best. repetition_penalty: logits of tokens in the context are
    divided by it if positive, else multiplied (Keskar et al. 2019, CTRL). seed: None draws one.
    """

    temperature: float = 0.8
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, self.temperature >= 0, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "0 to 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, penalty > 0, "more than 0")
        for name, value, most in (("top_k", self.top_k, 1 << 31), ("seed", self.seed, MAX_SEED)):
            if value is not None and (not isinstance(value, int) or not 0 <= value <= most):
                raise ConfigError(f"{name} is {value!r}, expected an integer of at least 0")


def _check(name: str, value: float, holds: bool, expected: str) -> None:
    if not holds or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class Slice:
    """Logits float32 (n,) of the token ids from `offset` on."""

    logits: NDArray[np.float32]
    offset: int = 0


class Sampler:
    """Chooses one token after another; the same seed and logits give the same tokens."""

    def __init__(self, config: SamplerConfig, vocab_size: int) -> None:
        self._config = config
        self._vocab_size = vocab_size
        self._seed = secrets.randbits(63) if config.seed is None else config.seed
        self._step = 0

    def sample(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """The next id, from logits float32 (vocab_size,) and the ids of the context.

        ModelError if a logit is not a finite number.
        """
        if self._config.repetition_penalty != 1.0 and history:
            logits = penalised(logits, history, self._config.repetition_penalty)
        try:
            token = choose([Slice(logits)], self._config, self._seed, self._step)
        except ValueError as error:
            raise ModelError(f"the model gives no usable logits: {error}") from error
        self._step += 1
        return token


def penalised(
    logits: NDArray[np.float32], history: Sequence[int], penalty: float
) -> NDArray[np.float32]:
    """A copy of the logits in which tokens of the history are less likely (penalty > 1)."""
    out = logits.copy()
    ids = np.unique(np.asarray(history, np.int64))
    values = out[ids]
    out[ids] = np.where(values > 0, values / penalty, values * penalty)
    return out


def choose(slices: Sequence[Slice], config: SamplerConfig, seed: int, step: int) -> int:
    """The token that config chooses from slices which together are the vocabulary."""
    inverse = 1.0 / config.temperature if config.temperature > 0 else 1.0
    scans = [sampling.scan(part.logits, inverse) for part in slices]
    if config.temperature == 0:
        tops = [(-top, at + part.offset) for (top, at, _), part in zip(scans, slices, strict=True)]
        return min(tops)[1]
    if config.top_k == 0 and config.top_p == 1.0 and config.min_p == 0.0:
        drawn = [sampling.winner(s.logits, inverse, seed, step, s.offset) for s in slices]
        return min((-value, token) for token, value in drawn)[1]
    best = max(top for top, _, _ in scans)
    total = sum(mass * math.exp((top - best) * inverse) for top, _, mass in scans)
    ids, logits = _kept(slices, config, best, total, inverse)
    values = logits * inverse + sampling.gumbel(ids, seed, step)
    return int(ids[np.lexsort((ids, -values))[0]])


def _kept(
    slices: Sequence[Slice], config: SamplerConfig, best: float, total: float, inverse: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Ids and logits of the tokens that pass the filters, best first.

    best: the largest logit. total: sum of exp((logit - best) / temperature). Asks the slices
    for more candidates until the filters cut within them.
    """
    size = sum(len(part.logits) for part in slices)
    count = config.top_k or FIRST_CANDIDATES
    while True:
        ids, logits = _best(slices, count)
        weights = np.exp((logits - best) * inverse)
        mass = weights.sum() if config.top_k else total
        before = np.concatenate([[0.0], np.cumsum(weights)[:-1]]) / mass
        keep = (before < config.top_p) & (weights >= config.min_p)
        keep[0] = True
        if config.top_k or not keep[-1] or len(ids) == size:
            return ids[keep], logits[keep]
        count *= 4


def _best(
    slices: Sequence[Slice], count: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The `count` best of all slices, from the `count` best of each."""
    parts = [sampling.candidates(part.logits, count, part.offset) for part in slices]
    ids = np.concatenate([part[0] for part in parts])
    logits = np.concatenate([part[1] for part in parts]).astype(np.float64)
    order = np.lexsort((ids, -logits))[:count]
    return ids[order], logits[order]
