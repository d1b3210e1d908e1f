"""Encoders that search: their error against the least that NumPy finds by trying all scales."""

from __future__ import annotations

import numpy as np
import pytest

from dllama._kernels import searched
from dllama._kernels import weight_types as quants
from dllama.model.weight_types import WeightType

SEARCHED = [kind for kind in WeightType if searched.is_searched(int(kind))]
GRIDS = {WeightType.Q40: np.arange(-8, 8)}


def encode(x, kind, importance=None, threads=1):
    out = np.zeros(kind.nbytes(x.size), np.uint8)
    finite = searched.search(x, out, int(kind), importance, threads)
    return out, finite


def decode(raw, kind, shape):
    out = np.empty(shape, np.float32)
    quants.decode(raw, out.reshape(-1), int(kind))
    return out


@pytest.fixture
def numbers(rng):
    """Rows of different sizes and means."""
    x = rng.standard_normal((24, 512)) * np.exp(2 * rng.standard_normal((24, 1)))
    return (x + rng.standard_normal((24, 1))).astype(np.float32)


@pytest.fixture
def importance(rng):
    return np.exp(rng.standard_normal(512)).astype(np.float32)


def weights_of(x, importance, block):
    """What the squared error of each number is multiplied by."""
    blocks = x.reshape(-1, block).astype(np.float64)
    sizes = np.sqrt(blocks**2 + (blocks**2).mean(axis=1, keepdims=True))
    return sizes.reshape(x.shape) * (1 if importance is None else importance)


def least_error(x, w, grid):
    """The least weighted squared error of each block of 32 over many scales."""
    x, w = x.reshape(-1, 32).astype(np.float64), w.reshape(-1, 32)
    extreme = np.abs(x).max(axis=1, keepdims=True)
    best = np.full(len(x), np.inf)
    for scale in np.concatenate([np.linspace(-0.4, -0.02, 600), np.linspace(0.02, 0.4, 600)]):
        d = scale * extreme
        q = grid[np.abs(x[:, :, None] / d[:, :, None] - grid).argmin(axis=2)]
        best = np.minimum(best, (w * (x - d * q) ** 2).sum(axis=1))
    return best


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("weighed", [False, True])
def test_errors_are_near_the_least_possible(numbers, importance, kind, weighed):
    columns = importance if weighed else None
    raw, finite = encode(numbers, kind, columns, threads=2)
    assert finite
    w = weights_of(numbers, columns, kind.block_size)
    found = (w * (numbers - decode(raw, kind, numbers.shape)) ** 2).reshape(-1, 32).sum(axis=1)
    least = least_error(numbers, w, GRIDS[kind])
    assert (found <= 1.3 * least).all()
    assert found.sum() <= 1.02 * least.sum()


def test_q40_has_less_error_than_without_a_search(numbers, importance):
    raw, _ = encode(numbers, WeightType.Q40, importance)
    plain = np.empty_like(raw)
    quants.encode(numbers, plain, int(WeightType.Q40))
    w = weights_of(numbers, importance, 32)
    errors = [
        (w * (numbers - decode(one, WeightType.Q40, numbers.shape)) ** 2).sum()
        for one in (raw, plain)
    ]
    assert errors[0] < 0.85 * errors[1]


@pytest.mark.parametrize("kind", SEARCHED)
def test_zeros_and_equal_numbers(kind):
    for value in (0.0, 3.0, -0.125, 1e-30):
        x = np.full((2, 512), value, np.float32)
        raw, finite = encode(x, kind)
        assert finite
        np.testing.assert_allclose(decode(raw, kind, x.shape), x, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("kind", SEARCHED)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38, 1e10])
def test_numbers_that_cannot_be_stored(kind, value):
    x = np.ones((3, 512), np.float32)
    x[1, 300] = value
    assert not encode(x, kind)[1]


@pytest.mark.parametrize("kind", SEARCHED)
def test_columns_that_nothing_reads(numbers, kind):
    """Their numbers may become anything that is finite."""
    raw, finite = encode(numbers, kind, np.zeros(512, np.float32))
    assert finite
    assert np.isfinite(decode(raw, kind, numbers.shape)).all()


def test_arguments_are_checked(numbers):
    with pytest.raises(ValueError, match="f16 is not searched"):
        encode(numbers, WeightType.F16)
    with pytest.raises(ValueError, match="importance of 3 columns, expected 512"):
        encode(numbers, WeightType.Q40, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="out has 5 bytes, expected"):
        searched.search(numbers, np.zeros(5, np.uint8), int(WeightType.Q40))
