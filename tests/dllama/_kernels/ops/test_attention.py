"""Attention against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops
from oracle.llama import KV_TYPES

from dllama._kernels.ops.attention import attention
from dllama.model.weight_types import WeightType

SHAPES = [  # rows, heads, KV heads, size, position
    (1, 4, 2, 20, 0),
    (5, 8, 2, 80, 300),
    (2, 7, 1, 128, 600),
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


# Q80 also rounds queries and softmax weights, to 15 bits.
ERRORS = {WeightType.F32: 2e-6, WeightType.F16: 2e-6, WeightType.Q80: 1e-4}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_equals_the_oracle(rng, shape, kind):
    q, k, v = inputs(rng, *shape)
    expected = ops.attention(q, KV_TYPES[kind](k), KV_TYPES[kind](v), shape[-1])
    result = attention(q, k, v, shape[-1], kind, threads=3)
    np.testing.assert_allclose(result, expected, atol=ERRORS[kind])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_same_bits_for_any_batch(rng, shape, kind):
    tokens, position = shape[0], shape[-1]
    q, k, v = inputs(rng, *shape)
    whole = attention(q, k, v, position, kind, threads=2)
    for t in range(0, tokens, 7):
        end = position + t + 1
        one = attention(q[t : t + 1].copy(), k[:end], v[:end], position + t, kind)
        np.testing.assert_array_equal(whole[t : t + 1], one)


@pytest.mark.parametrize(
    ("heads", "size", "values"), [(5, 80, 41), (40, 48, 32), (128, 576, 512), (3, 32, 64)]
)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_values_of_another_size_and_many_heads(rng, heads, size, values, kind):
    """For rows and heads of several items, and for rows whose blocks are items."""
    stored = KV_TYPES[kind]
    for tokens, position in ((9, 20), (1, 20), (2, 300)):
        q, k, _ = inputs(rng, tokens, heads, 1, size, position)
        v = rng.standard_normal((len(k), 1, values)).astype(np.float32)
        expected = ops.attention(q, stored(k), stored(v), position)
        result = attention(q, k, v, position, kind, threads=2)
        np.testing.assert_allclose(result, expected, atol=2 * ERRORS[kind])
        one = attention(q[:1].copy(), k[: position + 1], v[: position + 1], position, kind)
        np.testing.assert_array_equal(result[:1], one)


@pytest.mark.parametrize(
    ("heads", "size", "values"), [(5, 80, 41), (40, 48, 32), (128, 576, 512), (3, 39, 39)]
)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_values_that_are_parts_of_keys(rng, heads, size, values, kind):
    """Of long spans and of short ones, whose blocks are items, with windows and without."""
    for tokens, position in ((9, 20), (1, 20), (2, 300)):
        q, k, _ = inputs(rng, tokens, heads, 2, size, position)
        q = np.concatenate([q, -q], axis=1)
        stored, v = KV_TYPES[kind](k), np.full((*k.shape[:2], values), np.nan, np.float32)
        for window in (0, 17):
            expected = ops.attention(q, stored, stored[..., :values], position, window=window)
            options = {"kind": kind, "window": window, "shared": True}
            result = attention(q, k, v, position, threads=2, **options)
            np.testing.assert_allclose(result, expected, atol=3 * ERRORS[kind])
            end = position + 1
            one = attention(q[:1].copy(), k[:end], v[:end], position, **options)
            np.testing.assert_array_equal(result[:1], one)


# Smaller and larger than a block of 256 positions, and than the text.
@pytest.mark.parametrize("window", [1, 5, 16, 100, 255, 256, 257, 600, 2000])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_windows(rng, shape, kind, window):
    tokens, position = shape[0], shape[-1]
    q, k, v = inputs(rng, *shape)
    stored = KV_TYPES[kind]
    expected = ops.attention(q, stored(k), stored(v), position, window=window)
    result = attention(q, k, v, position, kind, threads=2, window=window)
    np.testing.assert_allclose(result, expected, atol=ERRORS[kind])
    for t in {0, tokens // 2, tokens - 1}:
        end = position + t + 1
        row = q[t : t + 1].copy()
        one = attention(row, k[:end], v[:end], position + t, kind, window=window)
        np.testing.assert_array_equal(result[t : t + 1], one)


@pytest.mark.parametrize("window", [1, 40, 300])
@pytest.mark.parametrize("kind", KV_TYPES)
def test_what_is_before_the_window_does_not_count(rng, kind, window):
    """Not even if it is enormous, in blocks that are read and in others."""
    q, k, v = inputs(rng, 3, 4, 2, 80, 700)
    expected = attention(q, k, v, 700, kind, window=window)
    before = 701 - window
    k[:before], v[:before] = 1e4, -1e4
    result = attention(q, k, v, 700, kind, window=window)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e4])
def test_keys_and_values_of_any_size(rng, scale):
    """Q80 has a float16 scale: what is far too small for it becomes zero."""
    q, k, v = inputs(rng, 3, 4, 2, 80, 290)
    k[7], v[::5] = 0, 0
    expected = ops.attention(q / scale, KV_TYPES[WeightType.Q80](k * scale), v, 290)
    if scale == 1e-20:
        expected = ops.attention(q, 0 * k, v, 290)
    result = attention(np.float32(q / scale), np.float32(k * scale), v, 290, WeightType.Q80)
    np.testing.assert_allclose(result, expected, atol=0.02)
    small = attention(q, k, np.float32(v * scale), 290, WeightType.Q80)
    expected = ops.attention(q, k, KV_TYPES[WeightType.Q80](np.float32(v * scale)), 290)
    np.testing.assert_allclose(small, expected, atol=0.02 * scale)


def test_q80_of_zeros_is_zero(rng):
    q, k, v = inputs(rng, 2, 2, 1, 48, 20)
    assert not attention(0 * q, 0 * k, 0 * v, 20, WeightType.Q80).any()
    assert not attention(q, k, 0 * v, 20, WeightType.Q80).any()


def test_refuses_other_types(rng):
    q, k, v = inputs(rng, 2, 2, 1, 48, 20)
    with pytest.raises(ValueError, match="a KV cache cannot have type 2"):
        attention(q, k, v, 20, WeightType.Q40)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_cap_and_another_scale(rng, shape):
    q, k, v = inputs(rng, *shape)
    for window in (0, 7, 290):
        expected = ops.attention(q, k, v, shape[-1], scale=3.0, cap=5.0, window=window)
        result = attention(q, k, v, shape[-1], threads=2, scale=3.0, cap=5.0, window=window)
        np.testing.assert_allclose(result, expected, atol=5e-6)
    far = attention(1e6 * q, k, v, shape[-1], scale=3.0, cap=5.0)
    assert np.isfinite(far).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KV_TYPES)
def test_sinks(rng, shape, kind):
    """They take a part of the weight, and the rows of a batch do not matter."""
    tokens, heads, position = shape[0], shape[1], shape[-1]
    q, k, v = inputs(rng, *shape)
    sinks = (3 * rng.standard_normal(heads)).astype(np.float32)
    stored = KV_TYPES[kind]
    for window in (0, 290):
        options = {"window": window, "sinks": sinks}
        expected = ops.attention(q, stored(k), stored(v), position, **options)
        whole = attention(q, k, v, position, kind, threads=2, **options)
        np.testing.assert_allclose(whole, expected, atol=ERRORS[kind])
        last = attention(q[-1:].copy(), k, v, position + tokens - 1, kind, **options)
        np.testing.assert_array_equal(last, whole[-1:])
    with pytest.raises(ValueError, match="1 sinks, expected"):
        attention(q, k, v, position, kind, sinks=np.zeros(1, np.float32)) if heads > 1 else None


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
