"""How often proposed ids were right, lately."""

from __future__ import annotations

WEIGHT = 4.0  # how many ids the expectation counts for
DECAY = 0.97  # how much older ids count for after each id


class Rate:
    """The chance that a proposed id is right, which follows what was seen.

    Args:
        expected: the chance before anything is known.
    """

    def __init__(self, expected: float) -> None:
        self._right, self._all = WEIGHT * expected, WEIGHT

    @property
    def chance(self) -> float:
        """The probability that an id is right."""
        return self._right / self._all

    def add(self, right: bool) -> None:
        """Note that an id was right or wrong."""
        self._right = DECAY * self._right + right
        self._all = DECAY * self._all + 1
