"""Tensors that are parts or products of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dllama.converter.sources.stored import BLOCKS, part_shape
from dllama.converter.sources.views import Scaled
from dllama.errors import FormatError
from dllama.model.file import encode
from dllama.model.stored_model import decode


@dataclass
class Given:
    """A tensor in memory."""

    dtype: str
    shape: tuple[int, ...]
    data: NDArray[Any]
    path = name = "given"
    lossy = ""
    nbytes = 0

    def part(self, index: int, count: int, span: int = 1) -> Given:
        shape = part_shape(self, count, span)
        size = len(self.data) // count
        return Given(self.dtype, shape, self.data[index * size : (index + span) * size])

    def rows(self, first: int, count: int) -> NDArray[Any]:
        return self.data[first : first + count]


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q40", "Q50", "Q80", "Q41", "MXFP4"])
@pytest.mark.parametrize("factor", [0.3, -1.25])
def test_a_product_with_a_number(rng, dtype, factor):
    numbers = rng.standard_normal((6, 64)).astype(np.float32)
    if dtype in BLOCKS:
        kind = BLOCKS[dtype]
        data = rng.integers(100, 140, (6, kind.nbytes(64)), np.uint8)
        if kind.writable:
            data = encode(numbers, kind).reshape(6, -1)
        before = decode(data, kind, (6, 64))
    else:
        data = numbers.astype({"F32": np.float32, "F16": np.float16}[dtype])
        before = data.astype(np.float32)
    scaled = Scaled(Given(dtype, (6, 64), data), factor)
    assert scaled.shape == (6, 64)
    found = scaled.part(1, 3, 2).rows(1, 3)
    if dtype in ("Q40", "Q50", "Q80"):
        assert scaled.dtype == dtype
        found = decode(found, BLOCKS[dtype], (3, 64))
        np.testing.assert_allclose(found, factor * before[3:6], rtol=2**-11)
    else:
        assert scaled.dtype == "F32"
        np.testing.assert_allclose(found, factor * before[3:6], rtol=1e-6)


def test_runs_of_a_vector_have_factors_of_their_own():
    vector = Given("F16", (5,), np.arange(5, dtype=np.float16))
    scaled = Scaled(vector, ((2.0, 2), (3.0, 3)))
    assert scaled.rows(0, 5).tolist() == [0, 2, 6, 9, 12]
    assert scaled.rows(1, 2).tolist() == [2, 6]


def test_parts_of_vectors():
    vector = Given("F32", (6,), np.arange(6, dtype=np.float32))
    assert Scaled(vector, 2.0).part(1, 6, 3).rows(1, 2).tolist() == [4, 6]
    with pytest.raises(FormatError, match="4 equal parts"):
        vector.part(0, 4)
