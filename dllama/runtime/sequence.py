"""A sequence: the ids whose keys and values a model keeps, and the KV blocks that hold them."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import NamedTuple

from dllama.runtime.held_blocks import HeldBlocks

# Ids at the end of a prompt, where templates begin an answer. They may change in the next turn.
SEAM = 4


class Sequence:
    """A text as a model keeps it.

    Args:
        held: its KV blocks in each cache.

    Attributes:
        tokens: ids that are evaluated: their keys and values are kept.
        pending: ids that follow, from a prompt or generated, and are not evaluated yet.
        ahead: how many ids after the tokens have keys and values already. These are drafted ids
            that turned out right and will be tokens when they are asked for.
        held: its KV blocks in each cache.
        given: how many ids there are up to the last one of a prompt.
        busy: whether a text is being generated in it, so that nobody else may change it.
        lengthened: whether RoPE takes the frequencies for long texts.
    """

    def __init__(self, held: Ids[HeldBlocks]) -> None:
        self.tokens: list[int] = []
        self.pending: list[int] = []
        self.ahead = 0
        self.held = held
        self.given = 0
        self.busy = False
        self.lengthened = False

    @property
    def position(self) -> int:
        """How many tokens are evaluated."""
        return len(self.tokens)

    @property
    def stateful(self) -> bool:
        """Whether a cache has states."""
        return any(held.pool.states for held in self.held)

    @property
    def lag(self) -> int:
        """How many tokens at the end the states have not taken in.

        Less than 0 if a pass was interrupted: states may have taken in ids that are no tokens.
        """
        return sum(held.lag(self.position) for held in self.held)  # one cache has states

    def resumable(self, position: int) -> int:
        """Return after how many of its first tokens it can go on, at most `position`.

        What it needs of each cache must still be there.
        """
        while (found := min(held.resumable(position) for held in self.held)) < position:
            position = found
        return position

    def returns_to(self, cache: int, place: int) -> bool:
        """Return whether the next turn may need a block: that of the window before an answer."""
        end, held = min(self.given, self.position), self.held[cache]
        return held.returned(max(0, end - SEAM)) <= place < held.pool.blocks(end)


class Part(NamedTuple):
    """Rows of one sequence in a pass.

    Args:
        sequence: the sequence; there is room for the rows (Sequences.reserve).
        ids: of the rows, which follow its tokens.
        wanted: rows whose logits are wanted.
        tentative: how many of the last ids may turn out wrong; also ids before the rows, if there
            are not so many of these.
    """

    sequence: Sequence
    ids: Ids[int]
    wanted: range
    tentative: int = 0
