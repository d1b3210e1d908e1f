"""Sampling: from logits to the next token id.

The filters and their order are those of Hugging Face transformers: repetition penalty,
temperature, top-k, top-p, min-p; where tokens are equally good, the lower id comes first.
What is drawn from the rest is the token with the largest logit / temperature + Gumbel
number, where that number is a function of seed, step and token id.

The vocabulary may be cut into shards, each known to another node: `choose` asks all shards
the same few questions, whose answers are small, and gives the same token for every split.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama._kernels.ops import sampling
from dllama.errors import DllamaError, ModelError

# Beyond these, sampling is taking the best token, or any token, to more digits than matter.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6


@dataclass(frozen=True)
class SamplerConfig:
    """How to choose a token; ConfigError for a value out of range.

    Args:
        temperature: 0 takes the best token.
        top_p: keep the fewest best tokens that together have this probability.
        top_k: keep the k best, 0: all.
        min_p: keep tokens at least this probable, relative to the best.
        repetition_penalty: logits of tokens in the context are divided by it if positive, else
            multiplied (Keskar et al. 2019, CTRL).
        seed: None draws one.
    """

    temperature: float = options.TEMPERATURE.default
    top_p: float = options.TOP_P.default
    top_k: int = options.TOP_K.default
    min_p: float = options.MIN_P.default
    repetition_penalty: float = options.REPETITION_PENALTY.default
    seed: int | None = options.SEED.default

    def __post_init__(self) -> None:
        for option in options.SAMPLING_OPTIONS:
            if option is not options.SEED or self.seed is not None:
                option.require(getattr(self, option.name))


class Draw(NamedTuple):
    """What determines one token, besides the logits; temperature is not 0."""

    temperature: float
    seed: int
    step: int


class Masses(NamedTuple):
    """Sums of token weights by octave (a factor of 2) of a token's weight.

    sums[i] counts the tokens i octaves below `octave`, in units of 2^(octave - i - 23).
    """

    octave: int
    sums: list[int]


class Cut(NamedTuple):
    """Which tokens may be chosen.

    Those of higher octaves; of `octave` those that come before `token` with its `logit`; and
    none below `least`. The default is all.
    """

    octave: int = -2 * sampling.MAX_OCTAVE
    logit: float = -math.inf
    token: int = -1
    least: float = -math.inf


class Race(NamedTuple):
    """Winners of a race, with value -inf where none took part: above the octave of a Cut,
    and in it."""

    inside: tuple[float, int]
    edge: tuple[float, int, float]


class Likelihood(NamedTuple):
    """What a shard knows about probabilities, before any penalty.

    largest: its largest logit. total: sum of e^(logit - largest). logit: of the token asked for,
    None if that is in another shard. best: ids and logits of its best tokens, in order.
    """

    largest: float
    total: float
    logit: float | None
    best: list[tuple[int, float]]


class VocabularyShards(Protocol):
    """VocabularyShards that together are the vocabulary; every answer has one entry per shard.

    ValueError where a logit is NaN or inf.
    """

    def penalise(self, history: Sequence[int], penalty: float) -> None:
        """Make tokens of the history less likely (penalty > 1) in all later answers."""

    def top(self) -> list[tuple[float, int]]:
        """The largest logit and its id, the lowest of several."""

    def best(self, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids (m,) and logits (m,) of the best `count` tokens, in order."""

    def masses(self, draw: Draw) -> list[Masses]:
        """The weights of all tokens."""

    def race(self, draw: Draw, cut: Cut) -> list[Race]:
        """The largest values."""

    def mass_before(self, draw: Draw, cut: Cut) -> list[int]:
        """The weights of the tokens of the cut's octave that may be chosen."""

    def likelihood(self, token: int, count: int) -> list[Likelihood]:
        """What gives the probability of a token and of the best `count`."""


class LocalShards:
    """VocabularyShards in this process: float32 logits (n,) each, in the order of the ids.

    offset: the id of the first.
    """

    def __init__(self, *logits: NDArray[np.float32], offset: int = 0) -> None:
        offsets = np.cumsum([offset, *(len(part) for part in logits)]).tolist()
        self._parts = list(zip(logits, offsets, strict=False))
        self._unpenalised = self._parts

    def penalise(self, history: Sequence[int], penalty: float) -> None:
        ids = np.unique(np.asarray(history, np.int64))
        self._parts = [
            (penalised(logits, ids[(ids >= at) & (ids < at + len(logits))] - at, penalty), at)
            for logits, at in self._parts
        ]

    def top(self) -> list[tuple[float, int]]:
        tops = [(sampling.top(logits), offset) for logits, offset in self._parts]
        return [(logit, index + offset) for (logit, index), offset in tops]

    def best(self, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        return [sampling.candidates(logits, count, offset) for logits, offset in self._parts]

    def masses(self, draw: Draw) -> list[Masses]:
        found = [sampling.masses(logits, draw.temperature) for logits, _ in self._parts]
        return [Masses(octave, sums.tolist()) for octave, sums in found]

    def race(self, draw: Draw, cut: Cut) -> list[Race]:
        return [
            Race(*sampling.race(
                logits, draw.temperature, draw.seed, draw.step, offset,
                cut.octave, cut.least, cut.logit, cut.token,
            ))
            for logits, offset in self._parts
        ]  # fmt: skip

    def mass_before(self, draw: Draw, cut: Cut) -> list[int]:
        return [
            sampling.mass_before(logits, draw.temperature, cut.octave, cut.logit, cut.token, offset)
            for logits, offset in self._parts
        ]

    def likelihood(self, token: int, count: int) -> list[Likelihood]:
        return [_likelihood(part, token - at, count, at) for part, at in self._unpenalised]


def _likelihood(logits: NDArray[np.float32], index: int, count: int, offset: int) -> Likelihood:
    """The likelihood of a shard whose first id is offset."""
    largest, _ = sampling.top(logits)
    usable = largest > -math.inf
    total = float(np.exp(logits - np.float64(largest)).sum()) if usable else 0.0
    logit = float(logits[index]) if 0 <= index < len(logits) else None
    best: list[tuple[int, float]] = []
    if count:
        ids, values = sampling.candidates(logits, count, offset)
        best = list(zip(ids.tolist(), values.tolist(), strict=True))
    return Likelihood(largest, total, logit, best)


class Sampler:
    """Chooses one token after another; the same seed and logits give the same tokens."""

    def __init__(self, config: SamplerConfig) -> None:
        self._config = config
        self._seed = secrets.randbits(63) if config.seed is None else config.seed
        self._step = 0

    def sample(self, shards: VocabularyShards, history: Sequence[int]) -> int:
        """The next id, from the logits of the vocabulary and the ids of the context.

        A logit of -inf is never chosen. ModelError if one is NaN or inf, or all are -inf.
        """
        try:
            if self._config.repetition_penalty != 1.0 and history:
                shards.penalise(history, self._config.repetition_penalty)
            token = choose(shards, self._config, self._seed, self._step)
        except DllamaError:
            raise
        except ValueError as error:
            raise ModelError(f"the model gives no usable logits: {error}") from error
        self._step += 1
        return token


def penalised(
    logits: NDArray[np.float32], ids: NDArray[np.int64], penalty: float
) -> NDArray[np.float32]:
    """A copy of the logits in which some tokens are less likely (penalty > 1)."""
    out = logits.copy()
    values = out[ids]
    out[ids] = np.where(values > 0, values / penalty, values * penalty)
    return out


def choose(shards: VocabularyShards, config: SamplerConfig, seed: int, step: int) -> int:
    """The token that config, seed and step choose; the repetition penalty is applied before.

    ValueError if a logit is NaN or inf, or all are -inf.
    """
    best, token = min(shards.top(), key=lambda top: (-top[0], top[1]))
    if best == -math.inf:
        raise ValueError("all logits are -inf")
    if config.temperature < LEAST_TEMPERATURE or config.top_k == 1:
        return token
    draw = Draw(min(config.temperature, MOST_TEMPERATURE), seed, step)
    least = best + draw.temperature * math.log(config.min_p) if config.min_p else -math.inf
    if config.top_k:
        return _from_best(shards, config, draw, least)
    if config.top_p == 1.0:
        return max(race.inside for race in shards.race(draw, Cut(least=least)))[1]
    return _from_octaves(shards, config.top_p, draw, least)


def _from_best(shards: VocabularyShards, config: SamplerConfig, draw: Draw, least: float) -> int:
    """The token chosen of the k best, which fit into one list."""
    parts = shards.best(config.top_k)
    ids = np.concatenate([part[0] for part in parts])
    logits = np.concatenate([part[1] for part in parts]).astype(np.float64)
    order = np.lexsort((ids, -logits))[: config.top_k]
    ids, values = ids[order], logits[order] / draw.temperature
    sums = np.cumsum(np.exp(values - values[0]))
    before = np.concatenate([[0.0], sums[:-1]])
    keep = (before < config.top_p * sums[-1]) & (logits[order] >= least)
    keep[0] = True
    values = values[keep] + sampling.gumbel(ids[keep], draw.seed, draw.step)
    return int(ids[keep][np.argmax(values)])


def _from_octaves(shards: VocabularyShards, top_p: float, draw: Draw, least: float) -> int:
    """The token chosen of the best that together have probability top_p.

    They are not listed, as there may be very many. They are the tokens above some octave, and
    the first in that octave; only if one of these wins must it be known how many.
    """
    octave, above, limit, unit = find_octave(merge_masses(shards.masses(draw)), top_p)
    cut = Cut(octave, least=least)
    while True:
        races = shards.race(draw, cut)
        inside = max(race.inside for race in races)
        value, token, logit = max(race.edge for race in races)
        if value <= inside[0]:
            return inside[1]
        cut = Cut(octave, logit, token, least)
        if above + sum(shards.mass_before(draw, cut)) * unit < limit:
            return token


def merge_masses(masses: Sequence[Masses]) -> Masses:
    """The masses of several shards together."""
    octave = max(mass.octave for mass in masses)
    sums = [0] * sampling.OCTAVES
    for mass in masses:
        below = range(octave - mass.octave, sampling.OCTAVES)
        for index, value in zip(below, mass.sums, strict=False):
            sums[index] += value
    return Masses(octave, sums)


def find_octave(masses: Masses, top_p: float) -> tuple[int, int, float, int]:
    """Where the best tokens that have probability top_p end.

    Returns the octave of the last of them; the mass of all above it and the mass that top_p
    is, both in units of the lowest octave; and how many of these its own unit is.
    """
    last = len(masses.sums) - 1
    sums = [value << (last - index) for index, value in enumerate(masses.sums)]
    limit = top_p * sum(sums)
    index = above = 0
    while index < last and above + sums[index] < limit:
        above += sums[index]
        index += 1
    return masses.octave - index, above, limit, 1 << (last - index)
