"""Times with pauses: a system that limits processor time lets threads run and makes them pause."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import accumulate

PAUSES = 3  # fewer are chance; a limit of the system on processor time makes one every 100 ms


def pauses(times: Sequence[float]) -> list[int]:
    """Which passes took far longer than the quick ones, if these are not chance."""
    quick = sorted(times)[len(times) // 4]
    found = [number for number, seconds in enumerate(times) if seconds > 2 * quick]
    return found if len(found) >= PAUSES else []


def sustained(times: Sequence[float]) -> float:
    """Return the seconds that a pass takes in the long run.

    Passes with pauses count, and a whole number of times that these come around.

    Args:
        times: seconds of consecutive passes.
    """
    found = pauses(times)
    if not found:
        return statistics.median(times)
    ends = list(accumulate(times))
    return (ends[found[-1]] - ends[found[0]]) / (found[-1] - found[0])
