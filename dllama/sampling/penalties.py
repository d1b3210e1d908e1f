"""What makes single tokens of a text more or less likely: its options, and what it has already.

A grammar comes first. Then the repetition penalty divides or multiplies, and then everything that
is added to a logit is added at once, as a float32. So all nodes find the same logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dllama.sampling.changes import MOST_IDS, Allow, Change, Penalise, Shift
from dllama.sampling.grammar import Mask

if TYPE_CHECKING:
    from dllama.sampling.sampler import SamplerConfig


class Penalties:
    """The changes of a text's logits.

    Args:
        config: what changes them.
        biases: what is added to the logits of tokens.
        history: ids in the context.
        number: how many of them were drawn; these are the last.
        ends: ids that end the text.
    """

    def __init__(
        self,
        config: SamplerConfig,
        biases: Mapping[int, float],
        history: Sequence[int],
        number: int,
        ends: Sequence[int],
    ) -> None:
        self._config = config
        self._biases = biases
        self._number = number
        self._ends = ends
        counts = config.frequency_penalty or config.presence_penalty
        self._counted = list(history[len(history) - number :]) if counts else None
        penalised = config.repetition_penalty != 1.0
        self._known = np.unique(np.asarray(history, np.int64)) if penalised else None

    def changes(self, drafted: Sequence[int], mask: Mask | None) -> list[Change]:
        """Return the changes of the logits of a row, in their order.

        Args:
            drafted: ids between the history and the row.
            mask: the tokens that are possible; None for all.
        """
        made: list[Change] = [] if mask is None else [Allow(mask)]
        if self._known is not None:
            new = np.asarray(drafted, np.int64)
            ids = np.union1d(self._known, new) if drafted else self._known
            penalty = self._config.repetition_penalty
            made += [Penalise(ids[part], penalty) for part in _parts(len(ids))]
        amounts = self._amounts(drafted, mask)
        ids = np.array(sorted(amounts), np.int64)
        values = np.array([amounts[token] for token in ids.tolist()], np.float32)
        return made + [Shift(ids[part], values[part]) for part in _parts(len(ids))]

    def _amounts(self, drafted: Sequence[int], mask: Mask | None) -> dict[int, float]:
        """Return what is added to the logits of tokens.

        The penalties are those of OpenAI's API: logit - count * frequency_penalty -
        (count > 0) * presence_penalty, where count is how often the token was drawn.
        """
        amounts, config = dict(self._biases), self._config
        if self._counted is not None and (drawn := [*self._counted, *drafted]):
            for token, count in zip(*np.unique(drawn, return_counts=True), strict=True):
                penalty = int(count) * config.frequency_penalty + config.presence_penalty
                amounts[int(token)] = amounts.get(int(token), 0.0) - penalty
        short = self._number + len(drafted) < config.min_tokens
        if short and not _all_are(self._ends, mask):
            amounts.update(dict.fromkeys(self._ends, -math.inf))
        return amounts


def _parts(count: int) -> list[slice]:
    """Return slices of as many ids as a question may have."""
    return [slice(first, first + MOST_IDS) for first in range(0, count, MOST_IDS)]


def _all_are(ends: Sequence[int], mask: NDArray[np.uint8] | None) -> bool:
    """Whether only tokens that end the text are possible."""
    if mask is None:
        return False
    possible = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
    return bool(np.isin(possible, ends).all())
