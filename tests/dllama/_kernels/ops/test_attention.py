"""Attention against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops

from dllama._kernels.ops.attention import attention

SHAPES = [  # rows, heads, KV heads, size, position
    (1, 4, 2, 20, 0),
    (7, 8, 2, 64, 0),
    (40, 6, 3, 48, 3),
    (1, 8, 2, 64, 700),
    (3, 8, 8, 32, 254),
    (9, 5, 1, 16, 1000),
    (300, 4, 2, 16, 100),
]


def inputs(rng, tokens, heads, kv_heads, size, position):
    q = rng.standard_normal((tokens, heads, size)).astype(np.float32)
    k = rng.standard_normal((position + tokens, kv_heads, size)).astype(np.float32)
    return q, k, rng.standard_normal(k.shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", [False, True])
def test_equals_the_oracle(rng, shape, half):
    q, k, v = inputs(rng, *shape)
    stored = np.float16 if half else np.float32
    expected = ops.attention(q, k.astype(stored), v.astype(stored), shape[-1])
    result = attention(q, k, v, shape[-1], half, threads=3)
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_for_any_batch(rng, shape):
    tokens, position = shape[0], shape[-1]
    q, k, v = inputs(rng, *shape)
    whole = attention(q, k, v, position, threads=2)
    for t in range(0, tokens, 7):
        end = position + t + 1
        one = attention(q[t : t + 1].copy(), k[:end], v[:end], position + t)
        np.testing.assert_array_equal(whole[t : t + 1], one)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_cap_and_another_scale(rng, shape):
    q, k, v = inputs(rng, *shape)
    expected = ops.attention(q, k, v, shape[-1], scale=3.0, cap=5.0)
    result = attention(q, k, v, shape[-1], threads=2, scale=3.0, cap=5.0)
    np.testing.assert_allclose(result, expected, atol=5e-6)
    far = attention(1e6 * q, k, v, shape[-1], scale=3.0, cap=5.0)
    assert np.isfinite(far).all()


def test_large_scores_do_not_overflow(rng):
    q, k, v = inputs(rng, 2, 2, 1, 16, 30)
    expected = ops.attention(100 * q, 100 * k, v, 30)
    result = attention(100 * q, 100 * k, v, 30)
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_refuses_shapes_that_do_not_fit(rng):
    q, k, v = inputs(rng, 2, 4, 2, 16, 3)
    for call in (
        lambda: attention(q, k, v, 4),
        lambda: attention(q, k, v[:4], 3),
        lambda: attention(q, k[:, :, :8].copy(), v, 3),
        lambda: attention(q[:, :3].copy(), k, v, 3),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            call()
