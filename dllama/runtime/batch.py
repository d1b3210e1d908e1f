"""A batch as the root plans it and all nodes evaluate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """Rows of one sequence at consecutive positions.

    Args:
        rows: how many.
        position: of the first.
        blocks: the sequence's KV blocks, in the order of their positions; these rows' included.
    """

    rows: int
    position: int
    blocks: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """The rows of a pass.

    Args:
        spans: of the sequences, one after another.
        wanted: rows whose logits are wanted, ascending.
        copies: KV blocks that are copied before the pass, (source, target).
    """

    spans: Sequence[Span]
    wanted: Sequence[int]
    copies: Sequence[tuple[int, int]] = ()

    @property
    def rows(self) -> int:
        """How many rows all spans have together."""
        return sum(span.rows for span in self.spans)
