"""Shares by speed: the split of a model with which a token is made in the least time.

Heads are not cut, so shares in proportion to speed may round badly: with nine heads, 2:1:1 can mean
4, 3 and 2. So the neighbours of such shares are tried too, as far as they round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, product

Cost = Callable[[tuple[float, ...]], float]

EDGE = 1e-3  # of a head: how far from the middle between two roundings a border stays
STEP = 0.006  # of all
MOST = 400  # shares that are tried
DIGITS = 6  # of a share


def best_shares(speeds: Sequence[float], heads: int, cost: Cost) -> tuple[float, ...]:
    """Return shares with a low cost, that add up to 1.

    Args:
        speeds: of the nodes; shares in proportion to them come first.
        heads: that are dealt out whole, at least one for each node.
        cost: of shares.
    """
    search = _Search(speeds, heads, cost)
    while search.improve(1) or search.improve(2):
        pass
    return shares_of(search.borders)


class _Search:
    """Moves one border between nodes, or two that follow each other, as long as that pays.

    The arguments are those of best_shares.
    """

    def __init__(self, speeds: Sequence[float], heads: int, cost: Cost) -> None:
        self.speeds, self.heads, self.cost = speeds, heads, cost
        parts = [sum(speeds[:rank]) / sum(speeds) for rank in range(1, len(speeds))]
        self.ideal, self.borders = parts, parts
        self.least, self.left = cost(shares_of(parts)), MOST

    def improve(self, count: int) -> bool:
        """Try to move each `count` borders; whether that paid."""
        before = self.least
        for first in range(len(self.borders) - count + 1):
            moved = range(first, first + count)
            for places in product(*(self._places(index) for index in moved)):
                self._try([*self.borders[:first], *places, *self.borders[first + count :]])
        return self.least < before

    def _try(self, borders: list[float]) -> None:
        if self.left and all(low < high for low, high in pairwise([0.0, *borders, 1.0])):
            self.left -= 1
            found = self.cost(shares_of(borders))
            if found < self.least * (1 - 1e-9):
                self.borders, self.least = borders, found

    def _places(self, index: int) -> list[float]:
        """Places for a border: for each way to round to whole heads, those near what is fair.

        That is the place by the speeds of all nodes, that between the two borders beside it, and
        a step away, since hidden units and tokens are dealt out in whole parts too.
        """
        low, high = ([0.0, *self.borders, 1.0][index + step] for step in (0, 2))
        one, other = self.speeds[index : index + 2]
        now = self.borders[index]
        fair = self.ideal[index], low + (high - low) * one / (one + other), now - STEP, now + STEP
        near = {round(self.heads * place) + step for place in fair[:2] for step in (-1, 0, 1)}
        return list(
            {
                min(
                    max(place, (whole - 0.5 + EDGE) / self.heads), (whole + 0.5 - EDGE) / self.heads
                )
                for whole in near
                for place in fair
            }
        )


def shares_of(borders: Sequence[float]) -> tuple[float, ...]:
    """The shares between borders from 0 to 1."""
    return tuple(round(high - low, DIGITS) for low, high in pairwise([0.0, *borders, 1.0]))


def differ(speeds: Sequence[float], most: float) -> bool:
    """Whether the fastest node is faster than the slowest by more than a factor."""
    return max(speeds) > most * min(speeds)


def words(shares: Sequence[float]) -> str:
    """Shares for a message, in percent."""
    return ":".join(str(max(1, round(100 * share))) for share in shares)
