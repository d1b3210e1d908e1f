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
    numbers = None if scaling is None else (8.0, 1.0, 4.0, 8192)
    cache = RopeCache(head_dim, 5000, 500000.0, numbers, threads=2)
    x = rng.standard_normal((4, 3, head_dim)).astype(np.float32)
    frequencies = ops.rope_frequencies(head_dim, 500000.0, scaling)
    for position in (0, 1, 4996):
        positions = np.arange(position, position + 4)
        expected = ops.rope(x, positions, frequencies, halves=halves)
        result = rope(x, cache, position, halves, threads=3)
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_cache_holds_cosines_and_sines():
    cos, sin = RopeCache(8, 100, 10000.0).table()
    angles = np.outer(np.arange(100), 10000.0 ** (-np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-7)


def test_refuses_what_does_not_fit():
    cache = RopeCache(8, 10, 10000.0)
    x = np.zeros((2, 1, 8), np.float32)
    for call in (
        lambda: RopeCache(7, 10, 10000.0),
        lambda: RopeCache(8, 0, 10000.0),
        lambda: rope(x, cache, 9),
        lambda: rope(x, cache, -1),
        lambda: rope(x[:, :, :6].copy(), cache),
    ):
        with pytest.raises(ValueError, match=r"RoPE cache|cannot rotate"):
            call()
