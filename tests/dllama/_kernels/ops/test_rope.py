"""RoPE against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops

from dllama._kernels.ops.rope import RopeCache, rope
from dllama.model.spec import RopeScaling

LLAMA31 = RopeScaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("head_dim", [2, 10, 64, 128])
@pytest.mark.parametrize("scaling", [None, LLAMA31])
def test_equals_the_oracle(rng, halves, head_dim, scaling):
    frequencies = ops.rope_frequencies(head_dim, 500000.0, scaling)
    cache = RopeCache(frequencies, 5000, threads=2)
    x = rng.standard_normal((4, 3, head_dim)).astype(np.float32)
    for position in (0, 1, 4996):
        positions = np.arange(position, position + 4)
        expected = ops.rope(x, positions, frequencies, halves=halves)
        result = rope(x, cache, position, halves, threads=3)
        np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("halves", [False, True])
def test_numbers_without_a_pair_stay(rng, halves):
    x = rng.standard_normal((2, 3, 10)).astype(np.float32)
    cache = RopeCache([1.0, 0.5, 0.1], 9)
    result = rope(x, cache, 7, halves)
    expected = ops.rope(x[..., :6], [7, 8], [1.0, 0.5, 0.1], halves=halves)
    np.testing.assert_allclose(result[..., :6], expected, atol=1e-6)
    np.testing.assert_array_equal(result[..., 6:], x[..., 6:])


def test_cache_holds_cosines_and_sines():
    frequencies = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    cos, sin = RopeCache(frequencies, 100, 1.5).table()
    angles = np.outer(np.arange(100), frequencies)
    np.testing.assert_allclose(cos, 1.5 * np.cos(angles), atol=1e-7)
    np.testing.assert_allclose(sin, 1.5 * np.sin(angles), atol=1e-7)


def test_refuses_what_does_not_fit():
    cache = RopeCache(4 * [0.5], 10)
    x = np.zeros((2, 1, 8), np.float32)
    for call in (
        lambda: RopeCache([], 10),
        lambda: RopeCache([0.5], 0),
        lambda: rope(x, cache, 9),
        lambda: rope(x, cache, -1),
        lambda: rope(x[:, :, :6].copy(), cache),
    ):
        with pytest.raises(ValueError, match=r"RoPE cache|cannot rotate"):
            call()
