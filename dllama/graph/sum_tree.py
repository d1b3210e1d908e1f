"""The order in which a sum over the columns of a split matrix is taken.

Floating-point addition is not associative, so a sum has the same bits on one node and on many only
if all of them add the same numbers in the same order. The columns, in units that nodes hold
whole, are cut into segments at every border that an even split over 1 to 8 nodes has. Products
are summed within a segment in the order of columns; the segments are leaves of one binary tree,
whose upper levels are halves, quarters and eighths. A node hands on the sum of each largest
subtree that it holds, one where the node count is a power of two, and all nodes complete the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import TypeAlias

from dllama.graph.ranges import deal

# Node counts whose even splits cut segments, from the root of the tree down: in this order nodes
# have the fewest subtrees.
EVEN_SPLITS = (2, 4, 8, 6, 3, 5, 7)

# A range of units, or a sum of two trees side by side.
Tree: TypeAlias = "range | tuple[Tree, Tree]"


@dataclass(frozen=True)
class Segment:
    """Columns whose products are summed one after another.

    adds: how many of the sums to its left are then added to it, the nearest first.
    """

    columns: int
    adds: int


@dataclass(frozen=True)
class Subtree:
    """A sum that one node takes by itself, from column `first` of its part of the matrix on."""

    first: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Summation:
    """One node's part of a sum, and how the parts of all nodes are added.

    subtrees: the sums that this node hands on. adds: by rank, for each sum of that node, how many
    of the sums before it are then added to it, the nearest first.
    """

    subtrees: tuple[Subtree, ...]
    adds: tuple[tuple[int, ...], ...]


def tree_of(
    count: int, least: int = 0, usable: Callable[[int], bool] = lambda border: True
) -> Tree:
    """The tree over 0 to count units, cut where `usable` says that a sum may be."""
    splits = [deal(count, [1] * n, least) for n in EVEN_SPLITS if n * least <= count]
    levels = [sorted({part.start for part in parts}) for parts in splits]
    return _cut(range(count), [list(filter(usable, level)) for level in levels])


def _cut(part: range, levels: list[list[int]]) -> Tree:
    """A part cut at the borders of the first level, the pieces at those of the next."""
    if not levels:
        return part
    borders = [border for border in levels[0] if part.start < border < part.stop]
    pieces = [range(a, b) for a, b in pairwise([part.start, *borders, part.stop])]
    return reduce(lambda a, b: (a, b), [_cut(piece, levels[1:]) for piece in pieces])


def summations(
    parts: Sequence[range], tree: Tree, width: Callable[[range], int], exact: bool
) -> list[Summation]:
    """The summation of each node, from the units that each holds.

    width: columns of some units. With exact, nodes whose borders the tree has add up to the bits
    of one node; otherwise, and where it has not all of the borders, every node hands on one sum.
    """
    covers = [cover(tree, part) for part in parts]
    if (exact or len(parts) == 1) and all(
        sum(map(len, map(units, held))) == len(part)
        for held, part in zip(covers, parts, strict=True)
    ):
        adds = iter(_adds(tree, {id(subtree) for held in covers for subtree in held}))
        across = tuple(tuple(next(adds) for _ in held) for held in covers)
    else:
        covers = [[part] if part else [] for part in parts]
        across = over_ranks([bool(part) for part in parts])
    return [Summation(tuple(_subtrees(held, width)), across) for held in covers]


def over_ranks(sends: Sequence[bool]) -> tuple[tuple[int, ...], ...]:
    """The adds of a binary tree over the ranks that have a sum to send."""
    adds: list[tuple[int, ...]] = []
    for rank, sending in enumerate(sends):
        sent = sum(sends[: rank + 1])
        carries = (sent & -sent).bit_length() - 1  # as a binary counter carries
        left = sent.bit_count() - 1 if sent == sum(sends) else 0
        adds.append((carries + left,) if sending else ())
    return tuple(adds)


def cover(tree: Tree, part: range) -> list[Tree]:
    """The largest subtrees within a part, from left to right."""
    all_units = units(tree)
    if part.start <= all_units.start and all_units.stop <= part.stop:
        return [tree] if all_units else []
    if isinstance(tree, range):
        return []
    return cover(tree[0], part) + cover(tree[1], part)


def units(tree: Tree) -> range:
    """The units below a tree."""
    if isinstance(tree, range):
        return tree
    return range(units(tree[0]).start, units(tree[1]).stop)


def leaves(tree: Tree) -> list[range]:
    """The segments of a tree, from left to right."""
    return [tree] if isinstance(tree, range) else leaves(tree[0]) + leaves(tree[1])


def _adds(tree: Tree, ends: set[int]) -> list[int]:
    """Additions after each of the subtrees that the recursion ends at, or leaf, in post-order."""
    if isinstance(tree, range) or id(tree) in ends:
        return [0]
    left, right = _adds(tree[0], ends), _adds(tree[1], ends)
    return [*left, *right[:-1], right[-1] + 1]


def _subtrees(held: Sequence[Tree], width: Callable[[range], int]) -> list[Subtree]:
    """A node's subtrees, in columns."""
    found: list[Subtree] = []
    first = 0
    for tree in held:
        segments = tuple(map(Segment, map(width, leaves(tree)), _adds(tree, set())))
        found.append(Subtree(first, segments))
        first += sum(segment.columns for segment in segments)
    return found
