"""Sampling: from logits to the next token id.

Filters and their order are those of Hugging Face's transformers: repetition penalty, temperature,
top-k, top-p, min-p. Among equal tokens, the lower id comes first. Of the tokens that remain, the
one with the largest logit / temperature + Gumbel number is drawn. The Gumbel number is a function
of the seed, the number of the draw and the token id.

The vocabulary may be sharded over nodes. `choose` asks all shards the same few questions, whose
replies are small, and returns the same token for every number of nodes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama._kernels.ops import sampling
from dllama.errors import DllamaError, ModelError

# Outside this range, sampling is indistinguishable from taking the best token, or any token.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6


@dataclass(frozen=True)
class SamplerConfig:
    """How to choose a token.

    Attributes:
        temperature: 0 takes the best token.
        top_p: keep the fewest best tokens whose probabilities add up to this.
        top_k: keep the best k tokens; 0 keeps all.
        min_p: drop tokens whose probability is below this fraction of the best token's.
        repetition_penalty: logits of tokens in the context are divided by this if positive, else
            multiplied by it (Keskar et al. 2019, CTRL).
        seed: None picks a random one.

    Raises:
        ConfigError: a value is out of range.
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
    """Everything but the logits that determines a token.

    Attributes:
        temperature: not 0.
        seed: of the sampler.
        number: how many tokens the sampler drew before.
    """

    temperature: float
    seed: int
    number: int


class Masses(NamedTuple):
    """Sums of token weights by octave (a factor of 2) of the weight.

    Attributes:
        octave: the highest octave.
        sums: sums[i] is the sum of the weights i octaves below `octave`, in units of
            2^(octave - i - 23).
    """

    octave: int
    sums: list[int]


class Cut(NamedTuple):
    """Which tokens may be chosen; the default is all.

    These are all tokens of higher octaves, and in `octave` those that come before `token` with its
    `logit`. Tokens with a logit below `least` are excluded.
    """

    octave: int = -2 * sampling.MAX_OCTAVE
    logit: float = -math.inf
    token: int = -1
    least: float = -math.inf


class Race(NamedTuple):
    """Winners of a race for the largest logit / temperature + Gumbel number.

    A value is -inf if no token took part.

    Attributes:
        inside: (value, id) of the winner above the octave of the Cut.
        edge: (value, id, logit) of the winner in that octave.
    """

    inside: tuple[float, int]
    edge: tuple[float, int, float]


class Likelihood(NamedTuple):
    """What a shard knows about probabilities, before any penalty.

    Attributes:
        largest: its largest logit.
        total: sum of e^(logit - largest).
        logit: logit of the requested token; None if that is in another shard.
        best: (id, logit) of its best tokens, best first.
    """

    largest: float
    total: float
    logit: float | None
    best: list[tuple[int, float]]


class VocabularyShards(Protocol):
    """Shards that together are the vocabulary. Every method returns one entry per shard.

    Methods raise ValueError if a logit is NaN or infinite.
    """

    def penalise(self, history: Sequence[int], penalty: float) -> None:
        """Make tokens of the history less likely (penalty > 1) for all later calls."""

    def top(self) -> list[tuple[float, int]]:
        """Return the largest logit and its id, the lowest of several."""

    def best(self, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Return ids (m,) and logits (m,) of the best `count` tokens, best first."""

    def masses(self, draw: Draw) -> list[Masses]:
        """Return the weights of all tokens, summed by octave."""

    def race(self, draw: Draw, cut: Cut) -> list[Race]:
        """Return the winners among the tokens that `cut` allows."""

    def mass_before(self, draw: Draw, cut: Cut) -> list[int]:
        """Return the sum of the weights that `cut` allows in its octave."""

    def likelihood(self, token: int, count: int) -> list[Likelihood]:
        """Return what gives the log probability of a token and of the best `count`."""


class LocalShards:
    """Shards in this process.

    Args:
        *logits: float32 (n,) of each shard, in the order of the ids.
        offset: the first id.
    """

    def __init__(self, *logits: NDArray[np.float32], offset: int = 0) -> None:
        offsets = accumulate((len(shard) for shard in logits), initial=offset)
        self._shards = list(zip(logits, offsets, strict=False))
        self._unpenalised = self._shards

    def penalise(self, history: Sequence[int], penalty: float) -> None:
        ids = np.unique(np.asarray(history, np.int64))
        self._shards = [
            (penalised(logits, ids[(ids >= at) & (ids < at + len(logits))] - at, penalty), at)
            for logits, at in self._shards
        ]

    def top(self) -> list[tuple[float, int]]:
        tops = [(sampling.top(logits), offset) for logits, offset in self._shards]
        return [(logit, index + offset) for (logit, index), offset in tops]

    def best(self, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        return [sampling.candidates(logits, count, offset) for logits, offset in self._shards]

    def masses(self, draw: Draw) -> list[Masses]:
        found = [sampling.masses(logits, draw.temperature) for logits, _ in self._shards]
        return [Masses(octave, sums.tolist()) for octave, sums in found]

    def race(self, draw: Draw, cut: Cut) -> list[Race]:
        return [
            Race(*sampling.race(
                logits, draw.temperature, draw.seed, draw.number, offset,
                cut.octave, cut.least, cut.logit, cut.token,
            ))
            for logits, offset in self._shards
        ]  # fmt: skip

    def mass_before(self, draw: Draw, cut: Cut) -> list[int]:
        return [
            sampling.mass_before(logits, draw.temperature, cut.octave, cut.logit, cut.token, offset)
            for logits, offset in self._shards
        ]

    def likelihood(self, token: int, count: int) -> list[Likelihood]:
        return [_likelihood(shard, token - at, count, at) for shard, at in self._unpenalised]


def _likelihood(logits: NDArray[np.float32], index: int, count: int, offset: int) -> Likelihood:
    """Return the likelihood for a shard whose first id is `offset`."""
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
    """Draws the tokens of a text. The same seed, number and logits give the same token."""

    def __init__(self, config: SamplerConfig) -> None:
        self._config = config
        self._seed = secrets.randbits(63) if config.seed is None else config.seed

    def sample(self, shards: VocabularyShards, history: Sequence[int], number: int) -> int:
        """Choose the next token. A token with logit -inf is never chosen.

        Args:
            shards: logits of the last pass.
            history: ids in the context.
            number: how many tokens of the text were drawn before.

        Raises:
            ModelError: a logit is NaN or infinite, or all are -inf.
        """
        try:
            if self._config.repetition_penalty != 1.0 and history:
                shards.penalise(history, self._config.repetition_penalty)
            return choose(shards, self._config, self._seed, number)
        except DllamaError:
            raise
        except ValueError as error:
            raise ModelError(f"the model's logits are not usable: {error}") from error


def penalised(
    logits: NDArray[np.float32], ids: NDArray[np.int64], penalty: float
) -> NDArray[np.float32]:
    """Return a copy of logits (n,) in which the tokens `ids` (m,) are less likely (penalty > 1)."""
    out = logits.copy()
    values = out[ids]
    out[ids] = np.where(values > 0, values / penalty, values * penalty)
    return out


def choose(shards: VocabularyShards, config: SamplerConfig, seed: int, number: int) -> int:
    """Choose a token. The repetition penalty must have been applied before.

    Args:
        shards: logits of the last pass.
        config: filters and temperature.
        seed: replaces config.seed, which may be None.
        number: how many tokens were drawn before.

    Raises:
        ValueError: a logit is NaN or infinite, or all are -inf.
    """
    best, token = min(shards.top(), key=lambda top: (-top[0], top[1]))
    if best == -math.inf:
        raise ValueError("all logits are -inf")
    if config.temperature < LEAST_TEMPERATURE or config.top_k == 1:
        return token
    draw = Draw(min(config.temperature, MOST_TEMPERATURE), seed, number)
    least = best + draw.temperature * math.log(config.min_p) if config.min_p else -math.inf
    if config.top_k:
        return _from_best(shards, config, draw, least)
    if config.top_p == 1.0:
        return max(race.inside for race in shards.race(draw, Cut(least=least)))[1]
    return _from_octaves(shards, config.top_p, draw, least)


def _from_best(shards: VocabularyShards, config: SamplerConfig, draw: Draw, least: float) -> int:
    """Choose one of the best k tokens, few enough to be listed."""
    found = shards.best(config.top_k)
    ids = np.concatenate([one[0] for one in found])
    logits = np.concatenate([one[1] for one in found]).astype(np.float64)
    order = np.lexsort((ids, -logits))[: config.top_k]
    ids, values = ids[order], logits[order] / draw.temperature
    sums = np.cumsum(np.exp(values - values[0]))
    before = np.concatenate([[0.0], sums[:-1]])
    keep = (before < config.top_p * sums[-1]) & (logits[order] >= least)
    keep[0] = True
    values = values[keep] + sampling.gumbel(ids[keep], draw.seed, draw.number)
    return int(ids[keep][np.argmax(values)])


def _from_octaves(shards: VocabularyShards, top_p: float, draw: Draw, least: float) -> int:
    """Choose one of the best tokens that together have probability top_p.

    There may be too many to list. They are all tokens above some octave, and the first ones in that
    octave. How many of the latter matters only if one of them wins the race.
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
    """Add the masses of several shards."""
    octave = max(mass.octave for mass in masses)
    sums = [0] * sampling.OCTAVES
    for mass in masses:
        below = range(octave - mass.octave, sampling.OCTAVES)
        for index, value in zip(below, mass.sums, strict=False):
            sums[index] += value
    return Masses(octave, sums)


def find_octave(masses: Masses, top_p: float) -> tuple[int, int, float, int]:
    """Find where the best tokens end that together have probability top_p.

    Returns:
        The octave of the last of them, the mass above it, the mass that corresponds to top_p (both
            in
        units of the lowest octave), and the unit of the octave in units of the lowest one.
    """
    last = len(masses.sums) - 1
    sums = [value << (last - index) for index, value in enumerate(masses.sums)]
    limit = top_p * sum(sums)
    index = above = 0
    while index < last and above + sums[index] < limit:
        above += sums[index]
        index += 1
    return masses.octave - index, above, limit, 1 << (last - index)
