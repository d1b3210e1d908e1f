"""The choice of experts against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops

from dllama._kernels.ops.moe import route


@pytest.mark.parametrize(("experts", "taken"), [(1, 1), (8, 2), (8, 8), (128, 8), (33, 5)])
@pytest.mark.parametrize("normalised", [True, False])
def test_takes_the_best(rng, experts, taken, normalised):
    scores = (3 * rng.standard_normal((9, experts))).astype(np.float32)
    chosen, weights = route(scores, taken, normalised)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :taken]
    np.testing.assert_array_equal(chosen, best)
    expected = np.take_along_axis(ops.softmax(scores), best, axis=1)
    if normalised:
        expected = expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=2e-6)


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(
    ("experts", "taken", "groups", "groups_taken", "group_best"),
    [(8, 3, 1, 1, 1), (8, 3, 4, 2, 2), (64, 6, 8, 3, 1), (33, 11, 3, 1, 2), (12, 4, 12, 5, 2)],
)
def test_takes_the_best_of_the_best_groups(
    rng, experts, taken, groups, groups_taken, group_best, normalised, sigmoid
):
    scores = (2 * rng.standard_normal((40, experts))).astype(np.float32)
    options = {"groups": groups, "groups_taken": groups_taken, "group_best": group_best}
    correction = rng.uniform(-2, 1, experts).astype(np.float32) if sigmoid else None
    chosen, weights = route(
        scores, taken, normalised, correction, sigmoid=sigmoid, scale=2.5, **options
    )
    for row, found, factors in zip(scores, chosen, weights, strict=True):
        added = 0.0 if correction is None else correction
        options |= {"normalised": normalised, "sigmoids": sigmoid, "scale": 2.5}
        best, expected = ops.route(row, taken, correction=added, **options)
        np.testing.assert_array_equal(found, best)
        np.testing.assert_allclose(factors, expected, rtol=3e-6)


def test_experts_have_factors_of_their_own(rng):
    """They count after weights have been scaled to a sum of 1, and not for the choice."""
    scores = rng.standard_normal((9, 6)).astype(np.float32)
    scales = rng.uniform(0.5, 8, 6).astype(np.float32)
    chosen, weights = route(scores, 3, True, None, scales)
    for row, found, factors in zip(scores, chosen, weights, strict=True):
        best, expected = ops.route(row, 3, normalised=True)
        np.testing.assert_array_equal(found, best)
        np.testing.assert_allclose(factors, expected * scales[best], rtol=2e-6)


def test_sigmoids_of_nothing_are_not_divided_by_nothing():
    scores = np.full((1, 4), -200, np.float32)
    assert (route(scores, 2, sigmoid=True)[1] < 1e-15).all()


@pytest.mark.parametrize("groups", [(3, 1), (4, 0), (4, 5), (4, 1), (0, 0)])
def test_refuses_groups_that_cannot_be(groups):
    with pytest.raises(ValueError, match="8 experts"):
        route(np.zeros((1, 8), np.float32), 3, groups=groups[0], groups_taken=groups[1])


def test_ties_go_to_the_first():
    chosen, weights = route(np.zeros((1, 6), np.float32), 3)
    assert chosen.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(weights, np.full((1, 3), 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_survives_what_is_not_finite(bad):
    """Experts are different and in range, whatever the scores are."""
    scores = np.array([[0.0, bad, 1.0, bad], [bad] * 4], np.float32)
    groups = {"groups": 2, "groups_taken": 1, "group_best": 2}
    for taken, options in ((3, {}), (3, {"sigmoid": True}), (2, groups)):
        chosen, _ = route(scores, taken, **options)
        for row in chosen.tolist():
            assert len(set(row)) == taken
            assert set(row) <= {0, 1, 2, 3}


@pytest.mark.parametrize("taken", [0, 5, -1])
def test_refuses_more_than_there_are(taken):
    with pytest.raises(ValueError, match="of 4 experts"):
        route(np.zeros((1, 4), np.float32), taken)
