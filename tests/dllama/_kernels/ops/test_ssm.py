"""Mamba-2 against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import delta as oracle

from dllama._kernels.ops.ssm import scan, squares


@pytest.mark.parametrize(("keys", "values"), [(1, 16), (24, 48), (128, 64)])
def test_scan(rng, keys, values):
    q, k = (rng.standard_normal((30, keys)).astype(np.float32) for _ in range(2))
    v, state = (rng.standard_normal((n, values)).astype(np.float32) for n in (30, keys))
    decay = rng.uniform(0.2, 1, 30).astype(np.float32)
    out, after = scan(q, k, v, decay, state)
    expected, kept = oracle.scan(q, k, v, decay, state)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(after, kept, rtol=1e-5, atol=1e-5)
    first, between = scan(q[:7], k[:7], v[:7], decay[:7], state)
    rest, last = scan(q[7:], k[7:], v[7:], decay[7:], between)
    np.testing.assert_array_equal(np.concatenate([first, rest]), out)
    np.testing.assert_array_equal(last, after)


@pytest.mark.parametrize("count", [0, 1, 16, 37])
def test_squares(rng, count):
    x = rng.standard_normal(count).astype(np.float32)
    assert squares(x) == pytest.approx(np.square(x, dtype=np.float64).sum(), rel=1e-6)


def test_refuses_shapes_that_do_not_fit():
    one, row = np.ones((2, 16), np.float32), np.ones(2, np.float32)
    with pytest.raises(ValueError, match="shapes"):
        scan(one, one, one[:, :8].copy(), row, np.ones((16, 8), np.float32))
    with pytest.raises(ValueError, match="shapes"):
        scan(one, one[:1], one, row, np.ones((16, 16), np.float32))
