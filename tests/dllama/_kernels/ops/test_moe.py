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


def test_ties_go_to_the_first():
    chosen, weights = route(np.zeros((1, 6), np.float32), 3)
    assert chosen.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(weights, np.full((1, 3), 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_survives_what_is_not_finite(bad):
    """Experts are different and in range, whatever the scores are."""
    scores = np.array([[0.0, bad, 1.0, bad], [bad] * 4], np.float32)
    chosen, _ = route(scores, 3)
    for row in chosen.tolist():
        assert len(set(row)) == 3
        assert set(row) <= {0, 1, 2, 3}


@pytest.mark.parametrize("taken", [0, 5, -1])
def test_refuses_more_than_there_are(taken):
    with pytest.raises(ValueError, match="of 4 experts"):
        route(np.zeros((1, 4), np.float32), taken)
