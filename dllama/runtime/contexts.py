"""Which of a model's contexts a text is evaluated in: the ids that each of them holds.

Keys and values are the nodes' (executor.pyx); here is what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

# What a text that goes on may change at the end of its last prompt, where an answer begins.
SEAM = 4


class Contexts:
    """`count` contexts, one of which is the current one.

    source: the context that holds the keys and values of the current one's ids; another one
    between a choice that copies and the pass that does it.
    """

    def __init__(self, count: int = 1) -> None:
        self._held: list[list[int]] = [[] for _ in range(count)]
        self._given = [0] * count  # ids up to the last one that was not generated
        self._order = list(range(count))  # the one that was used last is last
        self.current = self.source = 0

    @property
    def tokens(self) -> list[int]:
        """Ids that are evaluated in the current context."""
        return self._held[self.current]

    def choose(self, ids: Sequence[int]) -> int:
        """Make the best context for these ids the current one, cut to what both have in common.

        That is the one with the longest beginning of ids, if only what it generated differs: so
        does a conversation that goes on, and one whose answer is asked for again or was changed by
        its template. Else it is the one that was not used for the longest time, which gets a copy
        of the beginning. Returns the length of the beginning, which is all ids at most.
        """
        self._drop_copy()
        common = [_common(held, ids) for held in self._held]
        best = max(self._order, key=lambda one: common[one])  # of equals, the oldest
        kept = common[best]
        given = min(self._given[best], len(self._held[best]))
        goes_on = kept >= max(1, given - SEAM, (given + 1) // 2)
        chosen = best if goes_on else self._order[0]
        self._held[chosen] = self._held[best][:kept]
        self.current, self.source = chosen, best if kept else chosen
        return kept

    def evaluated(self, ids: Sequence[int], given: bool) -> None:
        """These ids follow in the current context, which holds all of its own now.

        given: they are of a prompt; else they were generated.
        """
        self.tokens.extend(ids)
        if given:
            self._given[self.current] = len(self.tokens)
        self.source = self.current
        self._order.remove(self.current)
        self._order.append(self.current)

    def clear(self) -> None:
        """Forget all contexts."""
        for held in self._held:
            held.clear()
        self.source = self.current

    def _drop_copy(self) -> None:
        """Forget what no pass has copied."""
        if self.source != self.current:
            self.tokens.clear()
            self.source = self.current


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the beginning that two texts have in common."""
    pairs = enumerate(zip(held, ids, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(held), len(ids)))
