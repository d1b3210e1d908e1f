"""Askings in lockstep: which questions go together, and which results count."""

from __future__ import annotations

import pytest
from rows import here

from dllama.sampling.lockstep import drive, together


def asking(name, count, log):
    """Ask `count` questions and return the replies. The log gets the name at the beginning."""
    log.append(name)
    replies = []
    for number in range(count):
        replies += yield [(name, number)]
    return replies


def answered(asking):
    """The result, and the questions of each round trip."""
    rounds = []

    def ask(questions):
        rounds.append(questions)
        return [f"{name}{number}" for name, number in questions]

    return drive(asking, ask), rounds


def test_there_are_as_many_round_trips_as_the_longest_needs():
    result, rounds = answered(
        together([asking(*one, []) for one in (("a", 1), ("b", 3), ("c", 2))])
    )
    assert result == [["a0"], ["b0", "b1", "b2"], ["c0", "c1"]]
    assert rounds == [
        [("a", 0), ("b", 0), ("c", 0)],
        [("b", 1), ("c", 1)],
        [("b", 2)],
    ]


def test_askings_of_askings_are_in_lockstep_too():
    pairs = [
        together([asking("a", 1, []), asking("b", 2, [])]),
        together([asking("c", 0, []), asking("d", 2, [])]),
    ]
    result, rounds = answered(together(pairs))
    assert result == [[["a0"], ["b0", "b1"]], [[], ["d0", "d1"]]]
    assert rounds == [[("a", 0), ("b", 0), ("d", 0)], [("b", 1), ("d", 1)]]


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_without_questions_nobody_is_asked(counts):
    result = here(together([asking("a", count, []) for count in counts]))
    assert result == [[] for _ in counts]


def test_what_follows_the_last_does_not_begin():
    log = []
    parts = [asking(name, 0, log) for name in "abc"]
    assert here(together(parts, lambda number, _: number == 1)) == [[], []]
    assert log == ["a", "b"]


def test_what_follows_the_last_asks_nothing_more():
    parts = [asking("a", 3, []), asking("b", 1, []), asking("c", 4, []), asking("d", 0, [])]
    result, rounds = answered(together(parts, lambda number, _: number in (1, 3)))
    assert result == [["a0", "a1", "a2"], ["b0"]]
    assert rounds == [[("a", 0), ("b", 0), ("c", 0)], [("a", 1)], [("a", 2)]]
