"""Ranges cut into contiguous parts."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise


def deal(count: int, shares: Sequence[float], least: int = 0) -> list[range]:
    """Cut 0 to count into one contiguous range per share, as long as the share is large.

    Borders are rounded; every range has `least` members or more, for which count suffices.
    """
    *sums, total = accumulate(map(Fraction, shares))
    borders = [0]
    for index, before in enumerate(sums, 1):
        border = round(count * before / total)
        behind = least * (len(shares) - index)
        borders.append(max(borders[-1] + least, min(border, count - behind)))
    borders.append(count)
    return [range(a, b) for a, b in pairwise(borders)]
