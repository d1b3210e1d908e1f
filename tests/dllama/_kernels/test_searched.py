"""Encoders that search: their error against the least that NumPy finds by trying all scales."""

from __future__ import annotations

import numpy as np
import pytest

from dllama._kernels import searched
from dllama._kernels import weight_types as quants
from dllama.model.weight_types import WeightType

SEARCHED = [kind for kind in WeightType if kind.searched]
# Numbers of a block of 32, or of 16 in Q6_K, that share a scale.
GRIDS = {
    WeightType.Q40: np.arange(-8, 8),
    WeightType.Q50: np.arange(-16, 16),
    WeightType.IQ4NL: np.array(
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    ),
}
# The largest number of blocks of 32 that share a scale and a min.
TOPS = {WeightType.Q41: 15, WeightType.Q51: 31, WeightType.Q4K: 15, WeightType.Q5K: 31}


def test_the_python_table_is_the_compiled_one():
    assert [kind for kind in WeightType if searched.is_searched(int(kind))] == SEARCHED


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


def least_error(x, w, grid, block=32):
    """The least weighted squared error of each block over many scales."""
    x, w = x.reshape(-1, block).astype(np.float64), w.reshape(-1, block)
    extreme = np.abs(x).max(axis=1, keepdims=True)
    best = np.full(len(x), np.inf)
    for end in (grid[0], grid[-1]):
        for ratio in np.linspace(0.5, 2, 500):
            d = ratio * extreme / end
            q = grid[np.abs(x[:, :, None] / d[:, :, None] - grid).argmin(axis=2)]
            best = np.minimum(best, (w * (x - d * q) ** 2).sum(axis=1))
    return best


def least_error_of_lines(x, w, top):
    """The least weighted squared error of each block of 32 over many scales and mins."""
    x, w = x.reshape(-1, 32).astype(np.float64), w.reshape(-1, 32)
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    best = np.full(len(x), np.inf)
    for below in np.linspace(-0.1, 0.4, 40):
        for above in np.linspace(-0.1, 0.4, 40):
            m = low + below * (high - low)
            d = (high - above * (high - low) - m) / top
            q = np.clip(np.rint((x - m) / np.where(d > 0, d, np.inf)), 0, top)
            best = np.minimum(best, (w * (x - d * q - m) ** 2).sum(axis=1))
    return best


def errors(x, w, kind, importance, block):
    """Weighted squared errors of encoded blocks."""
    raw, finite = encode(x, kind, importance, threads=2)
    assert finite
    return (w * (x - decode(raw, kind, x.shape)) ** 2).reshape(-1, block).sum(axis=1)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("weighed", [False, True])
def test_errors_are_near_the_least_possible(numbers, importance, kind, weighed):
    columns = importance if weighed else None
    w = weights_of(numbers, columns, kind.block_size)
    found = errors(numbers, w, kind, columns, 32)
    least = least_error(numbers, w, GRIDS[kind])
    assert (found <= 1.3 * least).all()
    assert found.sum() <= 1.02 * least.sum()


@pytest.mark.parametrize("kind", TOPS)
@pytest.mark.parametrize("weighed", [False, True])
def test_errors_of_lines_are_near_the_least_possible(numbers, importance, kind, weighed):
    """NumPy's scales and mins are exact.

    Those of super-blocks have six bits, and their mins are not positive.
    """
    x = numbers[:8]
    if kind.block_size == 256:
        x = x - x.mean(axis=1, keepdims=True)
    columns = importance if weighed else None
    w = weights_of(x, columns, kind.block_size)
    found = errors(x, w, kind, columns, 32)
    least = least_error_of_lines(x, w, TOPS[kind])
    assert np.median(found / least) < (1.05 if kind.block_size == 32 else 1.15)
    assert (found / least).max() < 4


def test_errors_of_q6k_are_near_the_least_possible(numbers, importance):
    """A scale is a byte, so that it differs from the best one by up to half a percent."""
    x, kind = numbers[:8], WeightType.Q6K
    w = weights_of(x, importance, 256)
    found = errors(x, w, kind, importance, 16)
    least = least_error(x, w, np.arange(-32, 32), block=16)
    assert np.median(found / least) < 1.15


def test_q40_has_less_error_than_without_a_search(numbers, importance):
    raw, _ = encode(numbers, WeightType.Q40, importance)
    plain = np.empty_like(raw)
    quants.encode(numbers, plain, int(WeightType.Q40))
    w = weights_of(numbers, importance, 32)
    found, before = (
        (w * (numbers - decode(one, WeightType.Q40, numbers.shape)) ** 2).sum()
        for one in (raw, plain)
    )
    assert found < 0.85 * before


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
