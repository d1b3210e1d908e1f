"""Parts of stored tensors that are not runs of rows, and tensors of several stored ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.stored import BLOCKS, Derived, Stored, floats, undivided
from dllama.errors import FormatError
from dllama.model.stored_model import decode

# Types whose blocks begin with a float16, by which all their numbers are multiplied.
SCALED = ("Q40", "Q50", "Q80")

Layout = Literal["rows", "columns", "vector", "flat"]


@dataclass(frozen=True)
class HeadRows:
    """Some rows of each head of a matrix.

    Args:
        heads: of the matrix.
        size: rows of a head.
        first, count: which of them.
        turned: whether they become columns: the matrix of each head is transposed.
    """

    heads: int
    size: int
    first: int
    count: int
    turned: bool


@dataclass(frozen=True)
class View(Derived):
    """Every `step`th row, column or number of a matrix.

    Attributes:
        stored: the matrix.
        layout: rows; columns, which become rows; vector: the matrix is one row, whose numbers
            are those of a vector; or flat: a vector of all numbers of a tensor.
        first: the first of them.
        step: from one to the next.
    """

    layout: Layout
    first: int
    step: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        if self.layout == "flat":  # rows, 1, columns; else it fits nothing
            fits = len(self.stored.shape) <= 3
            return (math.prod(self.stored.shape),) if fits else self.stored.shape
        *_, rows, columns = self.stored.shape
        if self.layout == "rows":
            return len(range(self.first, rows, self.step)), columns
        count = len(range(self.first, columns, self.step))
        return (count, rows) if self.layout == "columns" else (count,)

    @property
    def nbytes(self) -> int:
        """Its part of the bytes of the matrix."""
        return self.stored.nbytes * math.prod(self.shape) // math.prod(self.stored.shape)

    def part(self, index: int, count: int, span: int = 1) -> View:
        """Return the tensor itself: it is a part already."""
        return undivided(self, count)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count."""
        if self.layout == "flat":
            rows = self.stored.rows(0, self.stored.shape[0])
            flat: NDArray[Any] = rows.reshape(-1)[first : first + count]
            return flat
        begin, length = self.first + first * self.step, (count - 1) * self.step + 1
        if self.layout == "rows":
            return self.stored.rows(begin, length)[:: self.step]
        numbers = self.stored.rows(0, self.stored.shape[0])[:, begin : begin + length : self.step]
        return numbers[0] if self.layout == "vector" else np.ascontiguousarray(numbers.T)


class Joined:
    """Several vectors, one after another; attributes as in Stored.

    Args:
        parts: the vectors, of the same type and length.

    Raises:
        FormatError: they are not.
    """

    lossy = ""

    def __init__(self, parts: Sequence[Stored]) -> None:
        self._parts, first = parts, parts[0]
        for part in parts:
            if len(part.shape) != 1 or (part.shape, part.dtype) != (first.shape, first.dtype):
                found, expected = f"{part.dtype} {part.shape}", f"a vector, as {first.name}"
                raise FormatError(part.path, f"shape of {part.name}", found, expected)
        self.path, self.name, self.dtype = first.path, first.name, first.dtype
        self.shape = (sum(part.shape[0] for part in parts),)
        self.nbytes = sum(part.nbytes for part in parts)

    def part(self, index: int, count: int, span: int = 1) -> Joined:
        """Return the tensor itself."""
        return undivided(self, count)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return numbers first to first + count."""
        whole = np.concatenate([part.rows(0, part.shape[0]) for part in self._parts])
        return whole[first : first + count]

    def release(self) -> None:
        """Release the memory of the pages of all parts."""
        for part in self._parts:
            part.release()


@dataclass(frozen=True)
class Scaled(Derived):
    """A tensor times a number. In simple blocks the scales are multiplied, others are decoded.

    Attributes:
        factor: the number; or (factor, count) for runs of the numbers of a vector.
    """

    factor: float | tuple[tuple[float, int], ...]

    @property
    def dtype(self) -> str:
        """Of the products."""
        return self.stored.dtype if self.stored.dtype in SCALED else "F32"

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count: blocks, uint8 (count, bytes), or float32."""
        rows, kind = self.stored.rows(first, count), self.stored.dtype
        if kind in SCALED and isinstance(self.factor, float):
            return _scaled_blocks(rows, BLOCKS[kind].block_bytes, self.factor)
        if kind in BLOCKS:
            rows = decode(rows, BLOCKS[kind], (count, self.stored.shape[-1]))
        rows = floats(rows, "F32" if kind in BLOCKS else kind)
        if isinstance(self.factor, float):
            return rows * np.float32(self.factor)
        runs = [np.full(length, factor, np.float32) for factor, length in self.factor]
        product: NDArray[np.float32] = rows * np.concatenate(runs)[first : first + count]
        return product


def _scaled_blocks(rows: NDArray[np.uint8], size: int, factor: float) -> NDArray[np.uint8]:
    """Blocks of `size` bytes with other scales."""
    blocks = rows.reshape(-1, size).copy()
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    with np.errstate(over="ignore"):
        blocks[:, :2] = (scales * np.float32(factor)).astype("<f2").view(np.uint8)
    return blocks.reshape(rows.shape)


class OfHeads:
    """The matrix that some rows of each head are, one head below another; attributes as in Stored.

    Columns of quantised blocks are decoded, since they are rows here.

    Args:
        whole: the matrix.
        part_of: which rows.

    Raises:
        FormatError: the matrix has other rows than the heads.
    """

    def __init__(self, whole: Stored, part_of: HeadRows) -> None:
        rows = part_of.heads * part_of.size
        if len(whole.shape) != 2 or whole.shape[0] != rows:
            expected = f"a matrix of {rows} rows, {part_of.size} of each head"
            raise FormatError(whole.path, f"shape of {whole.name}", whole.shape, expected)
        self._whole, self._part = whole, part_of
        self.path, self.name, columns = whole.path, whole.name, whole.shape[1]
        decoded = part_of.turned and whole.dtype in BLOCKS
        self.dtype, self.lossy = "F32" if decoded else whole.dtype, whole.lossy
        high, wide = (columns, part_of.count) if part_of.turned else (part_of.count, columns)
        self._high, self.shape = high, (part_of.heads * high, wide)
        self.nbytes = whole.nbytes * part_of.count // part_of.size

    def part(self, index: int, count: int, span: int = 1) -> OfHeads:
        """Return the tensor itself: it is a part already."""
        return undivided(self, count)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count."""
        begin, end = first // self._high, -(-(first + count) // self._high)
        heads = np.concatenate([self._head(head) for head in range(begin, end)])
        return heads[first - begin * self._high :][:count]

    def _head(self, head: int) -> NDArray[Any]:
        """The rows of one head."""
        part, whole = self._part, self._whole
        rows = whole.rows(head * part.size + part.first, part.count)
        if not part.turned:
            return rows
        if whole.dtype in BLOCKS:
            rows = decode(rows, BLOCKS[whole.dtype], (part.count, whole.shape[1]))
        return np.ascontiguousarray(rows.T)

    def release(self) -> None:
        """Release the memory of the matrix's pages."""
        self._whole.release()
