"""How many drafted ids pay: costs that are learned, and texts played with them."""

from __future__ import annotations

import random

import pytest
from drafting import TEXT, play, words

from dllama.drafts.costs import Costs
from dllama.drafts.ngram import NgramDrafter

# Measured shapes of a pass by its rows: bound by memory, and with a jump at two rows.
FLAT = {1: 1.0, 2: 1.05, 4: 1.2, 8: 1.6, 16: 2.8, 64: 10.0}
STEEP = {1: 1.0, 2: 1.5, 4: 2.4, 8: 4.2, 16: 8.0, 64: 30.0}


def shape(points):
    """Seconds by rows: a line through the points."""

    def seconds(rows: int) -> float:
        below = max(n for n in points if n <= rows)
        above = min((n for n in points if n > rows), default=0)
        slope = (points[above] - points[below]) / (above - below) if above else 0.5
        return 0.02 * (points[below] + slope * (rows - below))

    return seconds


def learned(points, most: int) -> Costs:
    """Costs after passes over 1 to `most` rows in random order."""
    draw, costs, seconds = random.Random(most), Costs(), shape(points)
    for _ in range(40 * most):
        rows = draw.randrange(most) + 1
        costs.observe(rows, seconds(rows))
    return costs


@pytest.mark.parametrize("points", [FLAT, STEEP])
def test_learns_the_costs_through_noise(points):
    draw, costs, seconds = random.Random(2), Costs(), shape(points)
    for _ in range(400):
        rows = draw.choice([1, 2, 3, 5, 8])
        slow = draw.choice([1.0] * 9 + [4.0])
        costs.observe(rows, seconds(rows) * draw.uniform(0.97, 1.03) * slow)
    for rows in (1, 2, 3, 4, 5, 6, 8):
        assert costs.relative(rows) == pytest.approx(seconds(rows) / seconds(1), rel=0.08)


def test_costs_do_not_depend_on_how_fast_the_machine_is():
    """A busy neighbour, or longer texts: all passes take longer, and nothing else changes."""
    costs, seconds = Costs(), shape(FLAT)
    for factor in (1.0, 5.0, 0.3):
        for _ in range(40):
            for rows in (1, 4):
                costs.observe(rows, factor * seconds(rows))
    assert costs.relative(4) == pytest.approx(1.2, rel=0.02)


def test_an_old_measure_is_forgotten():
    costs = Costs()
    for _ in range(10):
        costs.observe(1, 1.0)
        costs.observe(2, 3.0)
    assert costs.relative(2) > 2.5
    for _ in range(1001):
        costs.observe(1, 1.0)
    assert costs.relative(2) == pytest.approx(1.15)


@pytest.mark.parametrize("points", [FLAT, STEEP])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("chance", [0.05, 0.3, 0.6, 0.9, 1.0])
def test_takes_the_depth_with_most_tokens_per_second(points, rows, chance):
    seconds, gained = shape(points), [sum(chance**n for n in range(1, k + 1)) for k in range(11)]
    rates = [(rows + gained[k]) / seconds(rows + k) for k in range(11)]
    depth = learned(points, 16).worth([chance] * 10, rows, 10)
    assert rates[depth] >= 0.97 * max(rates)


def test_drafts_shrink_as_rows_fill():
    costs = learned(STEEP, 32)
    depths = [costs.worth([0.8] * 8, rows, 8) for rows in (1, 4, 16, 24)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > 0
    assert depths[-1] == 0


def test_gives_no_more_than_asked_or_proposed():
    costs = Costs()
    assert costs.worth([1.0] * 8, 1, 3) == 3
    assert costs.worth([1.0] * 2, 1, 8) == 2
    assert costs.worth([1.0] * 8, 1, 0) == 0
    assert costs.worth([], 1, 8) == 0


def test_tries_one_id_now_and_then():
    costs = Costs()
    depths = [costs.worth([0.0], 1, 8) for _ in range(1000)]
    assert set(depths) == {0, 1}
    assert sum(depths) == 10
    assert sum(costs.worth([], 1, 8) for _ in range(1000)) == 0


@pytest.mark.parametrize("points", [FLAT, STEEP])
def test_copying_is_accepted_at_full_depth(points):
    ids = words(TEXT)
    ids = ids + ids[500:1500]
    played = play(ids, len(ids) - 1000, NgramDrafter(), shape(points))
    assert played.accepted >= 0.97 * played.drafted
    assert played.passes < 1000 / 8
    alone = 1000 * shape(points)(1)
    assert alone / played.seconds > (4.5 if points is FLAT else 1.8)


def test_editing_pays():
    """Every twentieth word is another one."""
    draw, ids = random.Random(3), words(TEXT)
    edited = [draw.randrange(10**6) if draw.random() < 0.05 else token for token in ids[:2000]]
    played = play(ids + edited, len(ids), NgramDrafter(), shape(FLAT))
    assert played.accepted > 0.6 * played.drafted
    assert 2000 * shape(FLAT)(1) / played.seconds > 2.5


@pytest.mark.parametrize("points", [FLAT, STEEP])
@pytest.mark.parametrize("alphabet", [2000, 50])
@pytest.mark.parametrize("others", [0, 7])
def test_random_text_costs_nearly_nothing(points, alphabet, others):
    draw = random.Random(alphabet)
    ids = [draw.randrange(alphabet) for _ in range(3000)]
    played = play(ids, 1000, NgramDrafter(), shape(points), others=others)
    assert played.drafted - played.accepted < 0.03 * 2000
    assert played.seconds < 1.015 * 2000 * shape(points)(1 + others)


@pytest.mark.parametrize("points", [FLAT, STEEP])
@pytest.mark.parametrize("others", [0, 7])
def test_free_text_gets_no_slower(points, others):
    """Prose repeats some words; a draft pays only where a row is cheap."""
    ids = words(TEXT)
    played = play(ids, 300, NgramDrafter(), shape(points), others=others)
    assert played.seconds < 1.01 * (len(ids) - 300) * shape(points)(1 + others)


def test_more_rows_are_never_taken_for_less_work():
    """A pass over one row met a busy machine, and no other such pass follows that could tell."""
    costs = learned({1: 1.0, 2: 0.7, 64: 60.0}, 2)
    assert costs.relative(2) < 0.8
    assert costs.worth([0.01], 1, 1) == 0
    assert costs.worth([0.5], 1, 1) == 1
