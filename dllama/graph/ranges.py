"""Cutting a range into contiguous ranges."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise


def deal(count: int, shares: Sequence[float], least: int = 0) -> list[range]:
    """Cut range(count) into one contiguous range per share, in proportion to the shares.

    Args:
        count: numbers to deal out, at least `least` for each share.
        shares: positive numbers.
        least: fewest numbers of a range.
    """
    return list(_dealt(count, tuple(shares), least))


@lru_cache(maxsize=4096)  # layers are cut alike, by every node
def _dealt(count: int, shares: tuple[float, ...], least: int) -> tuple[range, ...]:
    *sums, total = accumulate(map(Fraction, shares))
    borders = [0]
    for index, before in enumerate(sums, 1):
        border = round(count * before / total)
        reserved = least * (len(shares) - index)
        borders.append(max(borders[-1] + least, min(border, count - reserved)))
    borders.append(count)
    return tuple(range(a, b) for a, b in pairwise(borders))
