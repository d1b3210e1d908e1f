"""A batch: the rows that all nodes evaluate in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Rows of one sequence at consecutive positions.

    Args:
        rows: how many.
        position: of the first row.
        blocks: for each KV cache, the blocks that these rows see, their own included, by position.
        lengthened: whether RoPE takes the frequencies for long texts.
        lag: positions before the first row that the states have not taken in.
        tentative: last positions that the states are not to take in, since they may turn out wrong.
    """

    rows: int
    position: int
    blocks: Sequence[Sequence[int]]
    lengthened: bool = False
    lag: int = 0
    tentative: int = 0


@dataclass(frozen=True)
class Batch:
    """The rows of a pass.

    Args:
        spans: rows of each sequence.
        wanted: rows whose logits are wanted, ascending.
        copies: (cache, source, target) of KV blocks to copy before the pass.
    """

    spans: Sequence[Span]
    wanted: Sequence[int]
    copies: Sequence[tuple[int, int, int]] = ()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(span.rows for span in self.spans)
