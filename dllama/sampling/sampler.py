"""Sampling: from logits to the next token id.

A grammar leaves only some tokens at first. Filters and their order are those of Hugging Face's
transformers: repetition penalty, temperature, top-k, top-p, min-p. After the repetition penalty
come the frequency and presence penalties of OpenAI's API, and biases (penalties.py). Among equal
tokens, the lower id comes first. Of the tokens that remain, the one with the largest logit /
temperature + Gumbel number is drawn. The Gumbel number is a function of the seed, the number of the
draw and the token id.

The vocabulary may be sharded over nodes. `choose` asks all shards the same few questions, whose
replies are small, and finds the same token for every number of nodes. The rows of a pass ask
together (lockstep.py).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama._kernels.ops import sampling
from dllama.errors import ModelError
from dllama.options.biases import checked_biases
from dllama.sampling.changes import Allow, Change
from dllama.sampling.grammar import Mask
from dllama.sampling.lockstep import Asking, Row, together
from dllama.sampling.penalties import Penalties
from dllama.sampling.questions import (
    LEAST_TEMPERATURE,
    MOST_BEST,
    Best,
    Race,
    Weigh,
    WeighBefore,
)
from dllama.sampling.shard import Cut, Draw, Masses, Top, best_top


@dataclass(frozen=True)
class SamplerConfig:
    """How to choose a token.

    Attributes:
        temperature: 0 takes the best token.
        top_p: keep the fewest best tokens whose probabilities add up to this.
        top_k: keep the best k tokens; 0 and -1 keep all.
        min_p: drop tokens whose probability is below this fraction of the best token's.
        repetition_penalty: logits of tokens in the context are divided by this if positive, else
            multiplied by it (Keskar et al. 2019, CTRL).
        frequency_penalty: what is subtracted from a token's logit for each time that it was drawn.
        presence_penalty: what is subtracted if it was drawn at all.
        min_tokens: no id ends the text before so many are drawn.
        seed: None picks a random one.
        logit_bias: what is added to the logits of token ids; None for nothing.

    Raises:
        ConfigError: a value is out of range.
    """

    temperature: float = options.TEMPERATURE.default
    top_p: float = options.TOP_P.default
    top_k: int = options.TOP_K.default
    min_p: float = options.MIN_P.default
    repetition_penalty: float = options.REPETITION_PENALTY.default
    frequency_penalty: float = options.FREQUENCY_PENALTY.default
    presence_penalty: float = options.PRESENCE_PENALTY.default
    min_tokens: int = options.MIN_TOKENS.default
    seed: int | None = options.SEED.default
    logit_bias: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        for option in options.SAMPLING_OPTIONS:
            if option is not options.SEED or self.seed is not None:
                option.require(getattr(self, option.name))
        checked_biases(self.logit_bias)


class Sampler:
    """Draws the tokens of a text. The same seed, number and logits give the same token."""

    def __init__(self, config: SamplerConfig) -> None:
        self._config = config
        self._biases = checked_biases(config.logit_bias)
        self._seed = secrets.randbits(63) if config.seed is None else config.seed

    def sample(
        self,
        rows: Sequence[Row],
        history: Sequence[int],
        number: int,
        drafted: Sequence[int] = (),
        ends: Sequence[int] = (),
        masks: Sequence[Mask] = (),
    ) -> Asking[list[int]]:
        """Draw tokens from consecutive rows, until one is not what was drafted or ends the text.

        A token with logit -inf is never drawn.

        Args:
            rows: the first follows the history, each other one another drafted id.
            history: ids in the context.
            number: how many tokens of the text were drawn before.
            drafted: an id less than there are rows.
            ends: ids that end the text.
            masks: for each row, the tokens that it may give; none for all.

        Raises:
            ModelError: a logit that counts is NaN or infinite, or all are -inf.
        """

        def last(at: int, token: int | ModelError) -> bool:
            return at == len(drafted) or token != drafted[at] or token in ends

        penalties = Penalties(self._config, self._biases, history, number, ends)
        changes = [
            penalties.changes(drafted[:at], masks[at] if masks else None) for at in range(len(rows))
        ]
        draws = [
            self._draw(row, made, number + at)
            for at, (row, made) in enumerate(zip(rows, changes, strict=True))
        ]
        tokens: list[int] = []
        for found in (yield from together(draws, last)):
            if isinstance(found, ModelError):
                raise found
            tokens.append(found)
        return tokens

    def _draw(self, row: Row, changes: Sequence[Change], number: int) -> Asking[int | ModelError]:
        """Draw a token.

        Args:
            row: of the logits.
            changes: of these.
            number: how many tokens were drawn before.
        """
        try:
            if is_greedy(self._config) and len(changes) == 1 and isinstance(changes[0], Allow):
                best = _best_allowed(row, changes[0].mask)
                if best is not None:
                    return best
            tops: list[Top] = []
            for change in changes:
                tops = yield from row.ask(change)
            tops = tops or row.tops()
            return (yield from choose(row, tops, self._config, self._seed, number))
        except ValueError as error:
            return ModelError(f"the model's logits are not usable: {error}")


def is_greedy(config: SamplerConfig) -> bool:
    """Whether the best token is drawn, whatever the seed."""
    return config.temperature < LEAST_TEMPERATURE or config.top_k == 1


def _best_allowed(row: Row, mask: Mask) -> int | None:
    """Return the best token if a mask has it, so that no node need know the mask; else None."""
    try:
        tops = row.tops()
    except ValueError:  # the logit may be one that does not count
        return None
    best, token = min(tops, key=lambda top: (-top[0], top[1]))
    usable = all(-math.inf <= logit < math.inf for logit, _ in tops) and best > -math.inf
    allowed = token // 8 < len(mask) and mask[token // 8] >> token % 8 & 1
    return token if usable and allowed else None


def choose(
    row: Row, tops: Sequence[Top], config: SamplerConfig, seed: int, number: int
) -> Asking[int]:
    """Choose a token of logits that were changed before.

    Args:
        row: logits of the last pass.
        tops: of its shards, with the changes.
        config: filters and temperature.
        seed: replaces config.seed, which may be None.
        number: how many tokens were drawn before.

    Raises:
        ValueError: a logit is NaN or infinite, or all are -inf.
    """
    best, token = best_top(tops)
    if is_greedy(config):
        return token
    draw = Draw(config.temperature, seed, number)
    least = best + draw.temperature * math.log(config.min_p) if config.min_p else -math.inf
    if config.top_k > 0:
        return (yield from _from_best(row, config, draw, least))
    if config.top_p == 1.0:
        races = yield from row.ask(Race(draw, Cut(least=least)))
        return max(race.inside for race in races)[1]
    return (yield from _from_octaves(row, config.top_p, draw, least))


def _from_best(row: Row, config: SamplerConfig, draw: Draw, least: float) -> Asking[int]:
    """Choose one of the best k tokens, few enough to be listed."""
    ids, logits = yield from _best(row, config.top_k)
    order = np.lexsort((ids, -logits))[: config.top_k]
    ids, values = ids[order], logits[order] / draw.temperature
    sums = np.cumsum(np.exp(values - values[0]))
    before = np.concatenate([[0.0], sums[:-1]])
    keep = (before < config.top_p * sums[-1]) & (logits[order] >= least)
    keep[0] = True
    values = values[keep] + sampling.gumbel(ids[keep], draw.seed, draw.number)
    return int(ids[keep][np.argmax(values)])


def _best(row: Row, count: int) -> Asking[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return ids and logits of the best tokens of every shard, in no order."""
    ids: list[NDArray[np.int64]] = []
    logits: list[NDArray[np.float32]] = []
    for first in range(0, count, MOST_BEST):
        some = min(MOST_BEST, count - first)
        found = yield from row.ask(Best(first, some))
        ids += [one for one, _ in found]
        logits += [one for _, one in found]
        if all(len(one) < some for one, _ in found):
            break
    return np.concatenate(ids), np.concatenate(logits).astype(np.float64)


def _from_octaves(row: Row, top_p: float, draw: Draw, least: float) -> Asking[int]:
    """Choose one of the best tokens that together have probability top_p.

    There may be too many to list. They are all tokens above some octave, and the first ones in that
    octave. How many of the latter matters only if one of them wins the race.
    """
    masses = yield from row.ask(Weigh(draw))
    octave, above, limit, unit = find_octave(merge_masses(masses), top_p)
    cut = Cut(octave, least=least)
    while True:
        races = yield from row.ask(Race(draw, cut))
        inside = max(race.inside for race in races)
        value, token, logit = max(race.edge for race in races)
        if value <= inside[0]:
            return inside[1]
        cut = Cut(octave, logit, token, least)
        before = yield from row.ask(WeighBefore(draw, cut))
        if above + sum(before) * unit < limit:
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
