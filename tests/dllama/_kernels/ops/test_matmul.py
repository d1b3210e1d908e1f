"""The packed matmul against the NumPy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ops, quants

from dllama._kernels.ops.matmul import matmul
from dllama._kernels.packed import PackedMatrix
from dllama.model.weight_types import WeightType

F32, Q40, Q80 = WeightType.F32, WeightType.Q40, WeightType.Q80
FLOATS = [kind for kind in WeightType if not kind.quantised]


def stored(
    rng: np.random.Generator, rows: int, columns: int, weight_type: WeightType, skip: int = 0
):
    """Columns of a random matrix for the oracle, and the bytes of the blocks that hold them."""
    block = weight_type.block_size
    matrix, raw = quants.random_matrix(
        rng, weight_type, rows, -(-(skip + columns) // block) * block
    )
    numbers = quants.dense(matrix)[:, skip : skip + columns]
    return quants.Decoded(numbers) if weight_type.quantised else numbers, raw


def packed(
    raw: np.ndarray, shape: tuple[int, int], weight_type: WeightType, skip: int = 0
) -> PackedMatrix:
    matrix = PackedMatrix(*shape, weight_type, skip)
    assert matrix.fill(0, np.ascontiguousarray(raw), threads=2)
    return matrix


def cut(raw: np.ndarray, rows: int, columns: range, weight_type: WeightType) -> PackedMatrix:
    """A matrix of some columns of rows of blocks."""
    whole = weight_type.covering(columns)
    blocks = raw[:, weight_type.nbytes(whole.start) : weight_type.nbytes(whole.stop)]
    return packed(blocks, (rows, len(columns)), weight_type, columns.start - whole.start)


@pytest.mark.parametrize("weight_type", WeightType)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 1, 32), (3, 17, 64), (9, 50, 288), (21, 130, 512)]
)
def test_equals_the_oracle(rng, weight_type, tokens, rows, columns):
    skip = 96 if weight_type.block_size == 256 else 0
    reference, raw = stored(rng, rows, columns, weight_type, skip)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    result = matmul(packed(raw, (rows, columns), weight_type, skip), x, threads=2)
    np.testing.assert_allclose(result, ops.matmul(x, reference), atol=2e-5 * columns**0.5)


@pytest.mark.parametrize("weight_type", FLOATS)
def test_takes_any_number_of_float_columns(rng, weight_type):
    reference, raw = stored(rng, 5, 7, weight_type)
    x = rng.standard_normal((2, 7)).astype(np.float32)
    result = matmul(packed(raw, (5, 7), weight_type), x)
    np.testing.assert_allclose(result, ops.matmul(x, reference), atol=1e-5)


@pytest.mark.parametrize("weight_type", WeightType)
@pytest.mark.parametrize("order", [((256, 0),), ((64, 0), (32, 0), (96, 1), (64, 0))])
def test_same_bits_for_any_batch_and_threads(rng, weight_type, order):
    _, raw = stored(rng, 70, 256, weight_type)
    matrix = packed(raw, (70, 256), weight_type)
    x = rng.standard_normal((19, 256)).astype(np.float32)
    whole = matmul(matrix, x, order, threads=3)
    for size in (1, 2, 5, 8):
        pieces = [matmul(matrix, x[i : i + size], order) for i in range(0, 19, size)]
        np.testing.assert_array_equal(whole, np.concatenate(pieces, axis=1))
    if len(order) == 1:
        np.testing.assert_array_equal(whole, [matmul(matrix, x)])


@pytest.mark.parametrize("weight_type", WeightType)
@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_segments_add_as_a_tree(rng, weight_type, tokens):
    """Each segment is computed as a matrix of its own; the nearest sums are added first."""
    widths = (32, 64, 32, 96, 32)
    _, raw = stored(rng, 20, sum(widths), weight_type)
    x = rng.standard_normal((tokens, sum(widths))).astype(np.float32)
    sums, first = [], 0
    for width in widths:
        columns = range(first, first + width)
        sums.append(matmul(cut(raw, 20, columns, weight_type), x[:, first : first + width].copy()))
        first += width
    matrix = packed(raw, (20, sum(widths)), weight_type)
    expected = (sums[0] + sums[1]) + (sums[2] + (sums[3] + sums[4]))
    order = [*zip(widths, (0, 1, 0, 0, 3), strict=True)]
    np.testing.assert_array_equal(matmul(matrix, x, order), [expected])
    order = [*zip(widths, (0, 0, 1, 0, 1), strict=True)]
    expected = [sums[0], sums[1] + sums[2], sums[3] + sums[4]]
    np.testing.assert_array_equal(matmul(matrix, x, order, threads=2), expected)
    order = [*zip(widths, (0, 0, 0, 0, 0), strict=True)]
    np.testing.assert_array_equal(matmul(matrix, x, order), sums)


def test_segments_without_columns_add_nothing(rng):
    """They stand for columns that another matrix has."""
    matrix = PackedMatrix(16, 64, F32)
    matrix.fill(0, rng.standard_normal((16, 64)).astype(np.float32).view(np.uint8))
    x = rng.standard_normal((3, 64)).astype(np.float32)
    order = [(0, 0), (32, 1), (0, 0), (32, 1), (0, 2)]
    np.testing.assert_array_equal(matmul(matrix, x, order), matmul(matrix, x, [(32, 0), (32, 1)]))


def test_fill_places_blocks_of_rows(rng):
    weight = rng.standard_normal((8, 4)).astype(np.float32)
    matrix = PackedMatrix(16, 4, F32)
    matrix.fill(0, weight[:4].view(np.uint8), block=2, stride=4)
    matrix.fill(2, weight[4:].view(np.uint8), block=2, stride=4)
    result = matmul(matrix, np.eye(4, dtype=np.float32)).T
    expected = np.concatenate([weight[[0, 1, 4, 5, 2, 3, 6, 7]], np.zeros((8, 4))])
    np.testing.assert_array_equal(result, expected)


def test_refuses_what_does_not_fit(rng):
    matrix = PackedMatrix(4, 32, Q40)
    x = np.zeros((1, 32), np.float32)
    for call in (
        lambda: PackedMatrix(4, 33, Q40),
        lambda: PackedMatrix(0, 32, F32),
        lambda: PackedMatrix(4, 32, 99),
        lambda: matrix.fill(0, np.zeros((5, 18), np.uint8)),
        lambda: matrix.fill(-1, np.zeros((1, 18), np.uint8)),
        lambda: matrix.fill(0, np.zeros((1, 17), np.uint8)),
        lambda: matrix.fill(0, np.zeros((4, 18), np.uint8), block=1, stride=2),
        lambda: matmul(matrix, x[:, :31].copy()),
        lambda: matmul(matrix, x, [(16, 0), (16, 1)]),
        lambda: matmul(matrix, x, [(64, 0)]),
        lambda: matmul(matrix, x, [(32, 1)]),
        lambda: matmul(matrix, np.zeros((1, 64), np.float32), [(32, 0), (32, 0)]),
        lambda: matmul(PackedMatrix(4, 320, Q40), np.zeros((1, 320), np.float32), [(32, 0)] * 10),
        lambda: matmul(
            PackedMatrix(4, 320, Q40), np.zeros((1, 320), np.float32), [*[(32, 0)] * 9, (32, 9)]
        ),
        lambda: matmul(matrix, x, []),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            call()


def test_extreme_blocks_do_not_overflow():
    """The largest sums of products that the weight types allow."""
    raw = np.full((16, 18), 0xFF, np.uint8)
    raw[:, :2] = np.array([1.0], np.float16).view(np.uint8)
    result = matmul(packed(raw, (16, 32), Q40), np.full((1, 32), -127, np.float32))
    np.testing.assert_array_equal(result, np.full((1, 16), 7 * 32 * -127))
    raw = np.full((16, 34), 0x80, np.uint8)
    raw[:, :2] = np.array([1.0], np.float16).view(np.uint8)
    result = matmul(packed(raw, (16, 32), Q80), np.full((1, 32), 127, np.float32))
    np.testing.assert_array_equal(result, np.full((1, 16), -128 * 32 * 127))
