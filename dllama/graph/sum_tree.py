"""The order in which a sum over the columns of a split matrix is taken.

Floating-point addition is not associative, so a sum has the same bits on one node and on many only
if all of them add the same numbers in the same order. That order is a binary tree. Its leaves are
segments of the columns, cut at every border that an even split over 1 to 8 nodes has; its upper
levels are halves, quarters and eighths. The products of a segment are added one after another.

A tree is written in postfix: its leaves from left to right, each with the number of additions that
follow it. A list of sums holds what is not added yet: every leaf appends its sum, and each addition
replaces the last two sums by theirs. A node works through its own leaves in the same way, as far as
the sums are its own; what is left is added when the sums of all nodes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dllama.graph.ranges import deal

# Node counts whose even splits cut segments, from the root of the tree down: in this order nodes
# have the fewest sums to hand on.
EVEN_SPLITS = (2, 4, 8, 6, 3, 5, 7)


@dataclass(frozen=True)
class Leaf:
    """Units of columns, and how many additions follow their sum."""

    units: range
    adds: int = 0


Tree = list[Leaf]


@dataclass(frozen=True)
class Segment:
    """A number of columns whose products are added one after another.

    adds: how many of the sums before it are then added to it, the nearest first.
    """

    columns: int
    adds: int


@dataclass(frozen=True)
class Summation:
    """One node's part of a sum, and how the sums of all nodes are added.

    segments: the node's columns; it hands on the sums that are left after the last of them. adds:
    by rank, for each sum of that node, how many of the sums before it are then added to it, the
    nearest first.
    """

    segments: tuple[Segment, ...]
    adds: tuple[tuple[int, ...], ...]


def tree_of(
    count: int, least: int = 0, usable: Callable[[int], bool] = lambda border: True
) -> Tree:
    """The tree over the units 0 to count.

    Args:
        count: Units, at least 1.
        least: Units that every node of an even split has.
        usable: Whether a sum may be cut at a border.
    """
    splits = [deal(count, [1] * nodes, least) for nodes in EVEN_SPLITS if nodes * least <= count]
    levels = [sorted({part.start for part in parts if usable(part.start)}) for parts in splits]
    return _cut(range(count), levels)


def _cut(units: range, levels: list[list[int]]) -> Tree:
    """A tree of the pieces between borders of the first level, each cut at those of the next."""
    if not levels:
        return [Leaf(units)]
    inner = [border for border in levels[0] if units.start < border < units.stop]
    pieces = pairwise([units.start, *inner, units.stop])
    first, *others = [_cut(range(start, stop), levels[1:]) for start, stop in pieces]
    for other in others:
        first = _sum(first, other)
    return first


def _sum(left: Tree, right: Tree) -> Tree:
    """One tree of two."""
    *others, last = right
    return [*left, *others, Leaf(last.units, last.adds + 1)]


def balanced(parts: Sequence[range]) -> Tree:
    """A tree with a leaf for each part: the left subtree is the largest that is complete."""
    if len(parts) < 2:
        return [Leaf(part) for part in parts]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return _sum(balanced(parts[:half]), balanced(parts[half:]))


def summations(
    parts: Sequence[range], tree: Tree, width: Callable[[range], int], exact: bool
) -> list[Summation]:
    """The summation of each node.

    Args:
        parts: The units that each node holds.
        tree: The order of the sum on one node.
        width: Columns of some units.
        exact: Whether nodes add up to the bits of one node if their borders are those of leaves.
            Otherwise, or if they are not, every node hands on one sum.
    """
    held = [[leaf for leaf in tree if _within(leaf.units, part)] for part in parts]
    whole = sum(map(len, held)) == len(tree)
    if not whole or not (exact or len(parts) == 1):
        tree = balanced([part for part in parts if part])
        held = [[leaf for leaf in tree if leaf.units == part] for part in parts]
    walked = [_walk(leaves, width) for leaves in held]
    adds = tuple(tuple(left) for _, left in walked)
    return [Summation(tuple(segments), adds) for segments, _ in walked]


def _within(units: range, part: range) -> bool:
    return part.start <= units.start and units.stop <= part.stop


def _walk(leaves: Tree, width: Callable[[range], int]) -> tuple[list[Segment], list[int]]:
    """A node's segments, and for each sum that is left the additions that it does not do itself.

    A sum with such additions is closed: later ones of this node do not reach it or those before.
    """
    segments: list[Segment] = []
    left: list[int] = []
    reach = 0
    for leaf in leaves:
        own = min(leaf.adds, reach)
        segments.append(Segment(width(leaf.units), own))
        del left[len(left) - own :]
        left.append(leaf.adds - own)
        reach = reach - own + 1 if own == leaf.adds else 0
    return segments, left
