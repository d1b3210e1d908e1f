"""The order of sums: one node and many do the same additions."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.graph.ranges import deal
from dllama.graph.sum_tree import balanced, summations, tree_of, tree_of_all


def taken(sums, split):
    """The sum over all nodes as nested tuples; a segment is a range of units."""
    waiting = []
    for rank, (node, held) in enumerate(zip(sums, split, strict=True)):
        for value, adds in zip(own(node, held.start), node.adds[rank], strict=True):
            push(waiting, value, adds)
    assert len(waiting) == 1
    return waiting[0]


def own(node, begin):
    """The sums that a node takes by itself."""
    waiting = []
    for segment in node.segments:
        push(waiting, range(begin, begin + segment.columns), segment.adds)
        begin += segment.columns
        assert len(waiting) <= 8  # a tile has room for 8
    return waiting


def nested(tree):
    """A tree in postfix, as nested tuples of its leaves."""
    waiting = []
    for leaf in tree:
        push(waiting, leaf.units, leaf.adds)
    assert len(waiting) == 1
    return waiting[0]


def push(waiting, value, adds):
    for _ in range(adds):
        value = (waiting.pop(), value)
    waiting.append(value)


def units(tree):
    return [tree] if isinstance(tree, range) else units(tree[0]) + units(tree[1])


@settings(max_examples=300, deadline=None)
@given(count=st.integers(1, 600), nodes=st.integers(1, 8), least=st.sampled_from([0, 1]))
def test_the_sum_of_one_node(count, nodes, least):
    nodes = min(nodes, count) if least else nodes
    tree = tree_of(count, least)
    split = deal(count, [1] * nodes, least)
    sums = summations(split, tree, len, exact=True)
    assert taken(sums, split) == nested(tree)
    if nodes in (1, 2, 4, 8):
        assert all(
            len(adds) == (1 if held else 0) for adds, held in zip(sums[0].adds, split, strict=True)
        )
    assert max(map(len, sums[0].adds)) <= 4


@settings(max_examples=300, deadline=None)
@given(data=st.data(), count=st.integers(1, 300), exact=st.booleans())
def test_every_column_is_summed_once(data, count, exact):
    """For any shares, and any borders at which sums may be cut."""
    shares = data.draw(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
    unit = data.draw(st.integers(1, 3))
    split = deal(count, shares)
    sums = summations(split, tree_of(count, 0, lambda border: border % unit == 0), len, exact)
    segments = units(taken(sums, split))
    assert [unit for segment in segments for unit in segment] == list(range(count))
    if not exact and len(split) > 1:
        assert all(len(adds) <= 1 for adds in sums[0].adds)


def test_shares_that_are_borders_of_even_splits():
    for shares in ((2, 1, 1), (1, 3), (1, 2, 2), (3, 1, 1, 1)):
        split = deal(240, shares)
        assert taken(summations(split, tree_of(240), len, exact=True), split) == nested(
            tree_of(240)
        )


@settings(max_examples=300, deadline=None)
@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=2),
    nodes=st.integers(1, 8),
    uneven=st.booleans(),
)
def test_matrices_that_are_added_segment_by_segment(counts, nodes, uneven):
    """All have the same additions, and on any nodes the segments of one node."""
    shares = [1] * nodes if not uneven else [*range(1, nodes + 1)]
    tree, held, borders = tree_of_all(counts, shares)
    assert [border[-1] for border in (borders[0], borders[-1])] == [0, counts[-1]]
    all_adds = set()
    for matrix, count in enumerate(counts):
        own = [range(*(borders[at][matrix] for at in (one.start, one.stop))) for one in held]
        assert own == deal(count, shares)

        def width(some, matrix=matrix):
            return borders[some.stop][matrix] - borders[some.start][matrix]

        sums = summations(held, tree, width, exact=True)
        assert [sum(one.columns for one in node.segments) for node in sums] == [*map(len, own)]
        all_adds.add((sums[0].adds, *(tuple(s.adds for s in node.segments) for node in sums)))
        if not uneven:
            alone = summations([range(len(borders) - 1)], tree, width, exact=True)[0]
            segments = [one.columns for node in sums for one in node.segments]
            assert segments == [one.columns for one in alone.segments]
    assert len(all_adds) == 1
    if len(counts) == 1:
        widths = [borders[leaf.units.stop][0] - borders[leaf.units.start][0] for leaf in tree]
        plain = tree_of(counts[0])
        assert [(len(leaf.units), leaf.adds) for leaf in plain] == [
            (width, leaf.adds) for width, leaf in zip(widths, tree, strict=True)
        ]


def test_borders_elsewhere_leave_every_node_one_sum():
    split = deal(240, (1, 10))
    sums = summations(split, tree_of(240), len, exact=True)
    assert sums[0].adds == ((0,), (1,))


@pytest.mark.parametrize("nodes", range(1, 20))
def test_ranks_add_as_a_binary_tree(nodes):
    level = [range(rank, rank + 1) for rank in range(nodes)]
    tree = nested(balanced(level))
    while len(level) > 1:
        pairs = [tuple(level[at : at + 2]) for at in range(0, len(level), 2)]
        level = [pair if len(pair) == 2 else pair[0] for pair in pairs]
    assert tree == level[0]


def test_ranks_without_columns_add_nothing():
    split = [range(0), range(2), range(2, 2), range(2, 3), range(3, 5)]
    sums = summations(split, tree_of(5), len, exact=False)
    assert sums[0].adds == ((), (0,), (), (1,), (1,))
    assert [len(node.segments) for node in sums] == [0, 1, 0, 1, 1]


def test_segments_end_at_the_borders_of_all_even_splits():
    borders = set(accumulate(len(leaf.units) for leaf in tree_of(840)))
    assert borders == {840 * i // n for n in range(1, 9) for i in range(1, n + 1)}
