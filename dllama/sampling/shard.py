"""What a node knows about the logits of its vocabulary shard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.ops import sampling

Top = tuple[float, int]  # the largest logit and its id, the lowest of several


def best_top(tops: Sequence[Top]) -> Top:
    """Return the best of the tops of all shards; ValueError if the logits are not usable."""
    for logit, token in tops:
        if math.isnan(logit) or logit == math.inf:
            raise ValueError(f"logit {token} is not a number or infinite")
    best, token = min(tops, key=lambda top: (-top[0], top[1]))
    if best == -math.inf:
        raise ValueError("all logits are -inf")
    return best, token


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


class Winners(NamedTuple):
    """Winners of a race for the largest logit / temperature + Gumbel number.

    A value is -inf if no token took part.

    Attributes:
        inside: (value, id) of the winner above the octave of the Cut.
        edge: (value, id, logit) of the winner in that octave.
    """

    inside: tuple[float, int]
    edge: tuple[float, int, float]


class Likelihood(NamedTuple):
    """What a shard knows about probabilities, before any penalty or mask.

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


class Shard:
    """The logits of a row in one vocabulary shard.

    Args:
        logits: float32 (n,).
        offset: the first id.
    """

    def __init__(self, logits: NDArray[np.float32], offset: int = 0) -> None:
        self._logits = logits
        self._offset = offset
        self._original = logits

    def penalise(self, ids: NDArray[np.int64], penalty: float) -> None:
        """Make tokens less likely (penalty > 1) for all later calls but `likelihood`.

        Args:
            ids: int64 (m,), each at most once; those of other shards do not count.
            penalty: what positive logits are divided by, and others multiplied by.
        """
        at = ids - self._offset
        self._logits = penalised(self._logits, at[(at >= 0) & (at < len(self._logits))], penalty)

    def shift(self, ids: NDArray[np.int64], amounts: NDArray[np.float32]) -> None:
        """Add to the logits of tokens for all later calls but `likelihood`.

        Args:
            ids: int64 (m,), each at most once; those of other shards do not count.
            amounts: float32 (m,); -inf makes a token impossible.
        """
        at = ids - self._offset
        own = (at >= 0) & (at < len(self._logits))
        self._logits = self._logits.copy()
        with np.errstate(all="ignore"):
            self._logits[at[own]] += amounts[own]

    def allow(self, mask: NDArray[np.uint8]) -> None:
        """Make tokens impossible for all later calls but `likelihood`.

        Args:
            mask: uint8 (m,), of the whole vocabulary: bit i % 8 of byte i // 8 says whether token i
                is possible. Those that it does not have are not.
        """
        first, size = self._offset // 8, len(self._logits)
        last = -(-(self._offset + size) // 8)
        bits = np.unpackbits(mask[first:last], bitorder="little")[self._offset - 8 * first :][:size]
        allowed = np.zeros(size, bool)
        allowed[: len(bits)] = bits
        self._logits = np.where(allowed, self._logits, np.float32(-np.inf))

    def top(self) -> Top:
        """Return the largest logit and its id; ValueError if a logit is NaN or +infinity."""
        logit, index = sampling.top(self._logits)
        return logit, index + self._offset

    def marked_top(self) -> Top:
        """Return the largest logit and its id, or NaN and the id of a logit that is not usable."""
        try:
            return self.top()
        except ValueError as error:
            digits = [word for word in str(error).split() if word.isdigit()]
            return math.nan, int(digits[0]) + self._offset if digits else self._offset

    def best(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids (m,) and logits (m,) of the best `count` tokens after the best `first`."""
        ids, logits = sampling.candidates(self._logits, first + count, self._offset)
        return ids[first:], logits[first:]

    def masses(self, draw: Draw) -> Masses:
        """Return the weights of all tokens, summed by octave."""
        octave, sums = sampling.masses(self._logits, draw.temperature)
        return Masses(octave, sums.tolist())

    def race(self, draw: Draw, cut: Cut) -> Winners:
        """Return the winners among the tokens that `cut` allows."""
        return Winners(*sampling.race(
            self._logits, draw.temperature, draw.seed, draw.number, self._offset,
            cut.octave, cut.least, cut.logit, cut.token,
        ))  # fmt: skip

    def mass_before(self, draw: Draw, cut: Cut) -> int:
        """Return the sum of the weights that `cut` allows in its octave."""
        return sampling.mass_before(
            self._logits, draw.temperature, cut.octave, cut.logit, cut.token, self._offset
        )

    def likelihood(self, token: int, count: int) -> Likelihood:
        """Return what gives the log probability of a token and of the best `count`."""
        logits, index = self._original, token - self._offset
        largest, _ = sampling.top(logits)
        usable = largest > -math.inf
        total = float(np.exp(logits - np.float64(largest)).sum()) if usable else 0.0
        logit = float(logits[index]) if 0 <= index < len(logits) else None
        ids, values = sampling.candidates(logits, count, self._offset)
        return Likelihood(
            largest, total, logit, list(zip(ids.tolist(), values.tolist(), strict=True))
        )


def penalised(
    logits: NDArray[np.float32], ids: NDArray[np.int64], penalty: float
) -> NDArray[np.float32]:
    """Return a copy of logits (n,) in which the tokens `ids` (m,) are less likely (penalty > 1).

    A logit that no float32 holds becomes infinite.
    """
    out = logits.copy()
    values = out[ids]
    with np.errstate(all="ignore"):
        out[ids] = np.where(values > 0, values / penalty, values * penalty)
    return out
