"""Drafts from the text itself: what is proposed, and how the chances follow the text."""

from __future__ import annotations

import random

import pytest
from drafting import TEXT, words

from dllama.drafts.ngram import NgramDrafter, Rates


def longest_match(ids: list[int]) -> int:
    """How many ids before some earlier place agree with the end: by trying all, at most 32."""
    end, best = len(ids), 0
    for place in range(1, end):
        n = 0
        while n < min(place, 32) and ids[place - 1 - n] == ids[end - 1 - n]:
            n += 1
        best = max(best, n)
    return best


def test_proposes_what_followed_the_same_ids():
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
    assert NgramDrafter().propose(ids, 4) == [4, 5, 6, 7]


def test_prefers_the_longer_match_to_the_later_one():
    ids = [9, 1, 2, 7, 0, 8, 1, 2, 6, 0, 9, 1, 2]
    assert NgramDrafter().propose(ids, 2) == [7, 0]


def test_prefers_the_later_of_equal_matches():
    ids = [1, 2, 7, 0, 1, 2, 6, 0, 1, 2]
    assert NgramDrafter().propose(ids, 2) == [6, 0]


def test_a_loop_is_proposed_as_far_as_asked():
    assert NgramDrafter().propose([5, 1, 2, 3, 1, 2, 3], 8) == [1, 2, 3, 1, 2, 3, 1, 2]


@pytest.mark.parametrize("ids", [[], [1], [1, 1], [1, 2, 3, 4], [1, 2, 1]])
def test_proposes_nothing_without_two_ids_that_were_there_before(ids):
    drafter = NgramDrafter()
    assert drafter.propose(ids, 8) == []
    assert drafter.chances == []


def test_proposes_at_most_as_many_as_asked():
    ids = words(TEXT)[:300] * 2
    drafter = NgramDrafter()
    for most in (0, 1, 3, 40):
        assert drafter.propose(ids, most) == ids[:most]
        assert len(drafter.chances) == most


@pytest.mark.parametrize("alphabet", [2, 3, 10, 100])
def test_a_growing_text_gives_what_the_whole_text_gives(alphabet):
    draw = random.Random(alphabet)
    ids = [draw.randrange(alphabet) for _ in range(600)]
    drafter, end, same = NgramDrafter(), 0, 0
    while end < len(ids):
        end += draw.randrange(1, 5)
        grown, whole = drafter.propose(ids[:end], 6), NgramDrafter().propose(ids[:end], 6)
        assert bool(grown) == bool(whole)
        same += grown == whole
    assert same > 120  # the place that the text follows may differ from the latest


def test_matches_are_nearly_as_long_as_any():
    ids = words(TEXT)
    drafter, found, possible = NgramDrafter(), 0, 0
    for end in range(2000, 2300):
        drafter.propose(ids[:end], 1)
        found += min(32, drafter._matched)
        possible += longest_match(ids[:end])
    assert 0.85 * possible <= found <= possible


def test_another_text_starts_anew():
    drafter = NgramDrafter()
    assert drafter.propose([1, 2, 3, 1, 2], 2) == [3, 1]
    assert drafter.propose([1, 2, 7, 8, 1, 2], 2) == [7, 8]
    assert drafter.propose([1, 2], 2) == []


@pytest.mark.parametrize("told", [True, False])
def test_chances_follow_what_the_text_shows(told):
    """Ids that no pass verified count too, and none counts twice."""
    ids, drafter = [1, 2, 3, 4], NgramDrafter()
    for answer, higher in ((3, True), (9, False)):
        ids += [1, 2]
        (proposed,) = drafter.propose(ids, 1)
        (before,) = drafter.chances
        if told:
            drafter.learn(1, int(answer == proposed))
        ids += [answer, 40 + answer]
        drafter.propose(ids, 1)
        after = drafter._rates.chance(2)
        assert (after > before) == higher
    expected = Rates()
    expected.add(2, True)
    expected.add(2, False)
    assert drafter._rates.chance(2) == expected.chance(2)


def test_chances_rise_on_copied_and_fall_on_random_text():
    source = words(TEXT)
    drafter = NgramDrafter()
    for end in range(len(source), len(source) + 200):
        drafter.propose((source * 2)[:end], 8)
    assert min(drafter.chances) > 0.95

    draw = random.Random(1)
    ids = [draw.randrange(20) for _ in range(3000)]
    drafter, chances = NgramDrafter(), []
    for end in range(1, len(ids)):
        drafter.propose(ids[:end], 8)
        chances += drafter.chances[:1]
    assert sum(chances[-300:]) < 0.1 * 300


def test_time_of_an_id_does_not_grow_with_the_text():
    """The number of places that are compared is bounded, so count those, not seconds."""
    compared = 0

    class Counting(NgramDrafter):
        def _agreeing(self, place: int) -> int:
            nonlocal compared
            compared += 1
            return super()._agreeing(place)

    drafter, ids = Counting(), [1, 2] * 5000
    drafter.propose(ids, 8)
    for _ in range(100):
        ids.append(ids[-2])
        drafter.propose(ids, 8)
    assert compared <= 101 * 17
