"""The order in which the columns of a split matrix are summed.

Floating-point addition is not associative, so a sum has the same bits on one node and on many only
if the same numbers are added in the same order. That order is a binary tree. Its leaves are
segments of the columns, cut at every border of an even split over 1 to 8 nodes; its upper levels
are halves, quarters and eighths. The products of a segment are added from left to right.

A tree is written in postfix: its leaves from left to right, each with the number of additions that
follow it. To evaluate it, keep a stack of sums: every leaf pushes its sum, and each addition
replaces the top two sums by their sum. A node does this for its own leaves, as far as both sums of
an addition are its own. The sums that remain are sent, and the other additions follow there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dllama.graph.ranges import deal

# Node counts whose even splits cut segments, from the root of the tree down. In this order nodes
# have the fewest sums to send.
EVEN_SPLITS = (2, 4, 8, 6, 3, 5, 7)


@dataclass(frozen=True)
class Leaf:
    """A segment, and how many additions follow its sum.

    Args:
        units: heads or blocks of hidden units.
        adds: additions.
    """

    units: range
    adds: int = 0


Tree = list[Leaf]


@dataclass(frozen=True)
class Segment:
    """Columns whose products are added from left to right.

    Args:
        columns: how many.
        adds: how many of the sums before it are then added to its sum, the nearest first.
    """

    columns: int
    adds: int


@dataclass(frozen=True)
class Summation:
    """How one node sums its columns, and how the sums of all nodes are added.

    Args:
        segments: the node's columns. It sends the sums that remain after the last segment.
        adds: by rank, for each sum of that node, how many of the sums before it are then added to
            it, the nearest first.
    """

    segments: tuple[Segment, ...]
    adds: tuple[tuple[int, ...], ...]


def tree_of(
    count: int, least: int = 0, usable: Callable[[int], bool] = lambda border: True
) -> Tree:
    """The tree over units 0 to count - 1.

    Args:
        count: units, at least 1.
        least: fewest units of a node in an even split.
        usable: whether a sum may be cut before a unit.
    """
    splits = [deal(count, [1] * nodes, least) for nodes in EVEN_SPLITS if nodes * least <= count]
    levels = [sorted({cut.start for cut in split if usable(cut.start)}) for split in splits]
    return _cut(range(count), levels)


def tree_of_all(
    counts: Sequence[int],
    shares: Sequence[float],
    least: int = 0,
    usable: Callable[[tuple[int, ...]], bool] = lambda border: True,
) -> tuple[Tree, list[range], list[tuple[int, ...]]]:
    """The tree over several matrices whose products are added to each other segment by segment.

    All are cut at the same parts of their columns, as far as units allow. So a segment may be empty
    in some of them, though not in all.

    Args:
        counts: units of each matrix.
        shares: of each node.
        least: fewest units of the first matrix that a node holds.
        usable: whether a sum may be cut at a border: units of each matrix before it.

    Returns:
        The tree, the units of the tree that each node holds, and the borders of these units: units
        of each matrix before them.
    """
    even = [nodes for nodes in EVEN_SPLITS if nodes * least <= counts[0]]
    splits = [_borders(counts, [1] * nodes, least) for nodes in even]
    held = _borders(counts, shares, least)
    borders = sorted({border for split in (*splits, held) for border in split})
    place = {border: index for index, border in enumerate(borders)}
    levels = [sorted({place[cut] for cut in split if usable(cut)}) for split in splits]
    nodes = [range(place[start], place[stop]) for start, stop in pairwise(held)]
    return _cut(range(len(borders) - 1), levels), nodes, borders


def _borders(counts: Sequence[int], shares: Sequence[float], least: int) -> list[tuple[int, ...]]:
    """The borders of the units that nodes hold of each matrix, at least so many of the first."""
    leasts = [least, *(0 for _ in counts[1:])]
    held = [deal(count, shares, fewest) for count, fewest in zip(counts, leasts, strict=True)]
    dealt = [[0, *(one.stop for one in some)] for some in held]
    return list(zip(*dealt, strict=True))


def _cut(units: range, levels: list[list[int]]) -> Tree:
    """Cut units at the borders of the first level, each piece at those of the next, and so on."""
    if not levels:
        return [Leaf(units)]
    inner = [border for border in levels[0] if units.start < border < units.stop]
    pieces = pairwise([units.start, *inner, units.stop])
    first, *others = [_cut(range(start, stop), levels[1:]) for start, stop in pieces]
    for other in others:
        first = _sum(first, other)
    return first


def _sum(left: Tree, right: Tree) -> Tree:
    """The tree that adds two trees."""
    *others, last = right
    return [*left, *others, Leaf(last.units, last.adds + 1)]


def balanced(leaves: Sequence[range]) -> Tree:
    """A tree with these leaves, whose left subtree is the largest complete one."""
    if len(leaves) < 2:
        return [Leaf(units) for units in leaves]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return _sum(balanced(leaves[:half]), balanced(leaves[half:]))


def summations(
    split: Sequence[range], tree: Tree, width: Callable[[range], int], exact: bool
) -> list[Summation]:
    """The summation of each node.

    Args:
        split: the units that each node holds.
        tree: the order of the sum on one node.
        width: how many columns some units have.
        exact: whether all nodes together get the bits of one node, if no leaf is split between
            nodes. If one is, or without exact, every node sends one sum.
    """
    held = [[leaf for leaf in tree if _within(leaf.units, units)] for units in split]
    whole = sum(map(len, held)) == len(tree)
    if not whole or not (exact or len(split) == 1):
        tree = balanced([units for units in split if units])
        held = [[leaf for leaf in tree if leaf.units == units] for units in split]
    walked = [_walk(leaves, width) for leaves in held]
    adds = tuple(tuple(left) for _, left in walked)
    return [Summation(tuple(segments), adds) for segments, _ in walked]


def _within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


def _walk(leaves: Tree, width: Callable[[range], int]) -> tuple[list[Segment], list[int]]:
    """A node's segments, and for each sum that remains, the additions that the node cannot do.

    Later additions of the node stop at a sum that has such additions.
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
