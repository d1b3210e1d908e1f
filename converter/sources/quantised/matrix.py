"""Quantised matrices, whose numbers and scales are in several tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.quantised import blocks
from dllama.converter.sources.stored import MappedTensor, part_shape
from dllama.errors import FormatError
from dllama.model.weight_types import WeightType


@dataclass(frozen=True)
class Grid:
    """A matrix on a grid: value[r, c] = scale[r, group of c] * number[r, c].

    Attributes:
        kind: name of the quantisation, for messages.
        stored: the tensors that it consists of. The first one has the numbers.
        shape: rows and columns.
        group: columns that share a scale: the first ones, the next ones, and so on.
        numbers: from first and count to the numbers of rows first to first + count, int16 or
            float32 (count, columns).
        scales: from first and count to their scales, float32 (count, groups).
        span: the least and the largest number, if these are integers.
        order: the group of each column, int32 (columns,), if columns of a group are not neighbours.
    """

    kind: str
    stored: tuple[MappedTensor, ...]
    shape: tuple[int, int]
    group: int
    numbers: Callable[[int, int], NDArray[Any]]
    scales: Callable[[int, int], NDArray[np.float32]]
    span: tuple[int, int] | None = None
    order: NDArray[np.int32] | None = None

    def exact_type(self) -> WeightType | None:
        """The weight type whose blocks hold these numbers and scales."""
        columns = self.shape[1]
        whole = self.group % blocks.BLOCK == 0 or self.group >= columns
        if self.span is None or self.order is not None or not whole or columns % blocks.BLOCK:
            return None
        return blocks.exact_type(*self.span)

    def spread(self, scales: NDArray[np.float32], unit: int) -> NDArray[np.float32]:
        """The scales (count, columns / unit) of runs of columns, from those of groups."""
        if self.order is not None:
            return scales[:, self.order[::unit]]
        runs = self.shape[1] // unit
        return np.repeat(scales, -(-self.group // unit), axis=1)[:, :runs]


@dataclass(frozen=True)
class QuantisedMatrix:
    """Rows of a grid: blocks of a weight type if one holds them exactly, else float32.

    Attributes:
        grid: the whole matrix.
        shape: rows and columns.
        at: the first row.
    """

    grid: Grid
    shape: tuple[int, ...]
    at: int = 0

    @property
    def path(self) -> Path:
        """The file with the numbers."""
        return self.grid.stored[0].path

    @property
    def name(self) -> str:
        """Name of the tensor with the numbers."""
        return self.grid.stored[0].name

    @property
    def dtype(self) -> str:
        """Type of the rows."""
        kind = self.grid.exact_type()
        return "F32" if kind is None else kind.name

    @property
    def lossy(self) -> str:
        """Name of the quantisation if it has integers that no weight type holds."""
        return self.grid.kind if self.grid.span and self.dtype == "F32" else ""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files."""
        whole = sum(tensor.nbytes for tensor in self.grid.stored)
        return whole * self.shape[0] // self.grid.shape[0]

    def part(self, index: int, count: int, span: int = 1) -> QuantisedMatrix:
        """Return some of `count` equal runs of rows."""
        shape = part_shape(self, count, span)
        if count == 1:
            return self
        return replace(self, shape=shape, at=self.at + index * shape[0] // span)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count: blocks, uint8 (count, bytes), or float32."""
        grid, kind = self.grid, self.grid.exact_type()
        numbers = grid.numbers(self.at + first, count)
        scales = grid.scales(self.at + first, count)
        if kind is None:
            return numbers.astype(np.float32) * grid.spread(scales, 1)
        return blocks.pack(kind, numbers, grid.spread(scales, blocks.BLOCK))

    def release(self) -> None:
        """Release the memory of the pages of all tensors."""
        for tensor in self.grid.stored:
            tensor.release()


def misfit(group: int, bits: int = 4, symmetric: bool = True, act_order: str = "") -> str:
    """Why integers fit in no block of a model file, as far as a config says; "" if nothing does.

    Args:
        group: columns that share a scale; -1 for all.
        bits: of a number.
        symmetric: whether there are no zero points.
        act_order: the field by which columns of a group are not neighbours, or "".
    """
    if act_order and group != -1:
        return f"{act_order} (act order)"
    if 0 < group < blocks.BLOCK:
        return f"group_size {group}"
    return "8 bits with zero points" if bits == 8 and not symmetric else ""


def check(tensor: MappedTensor, dtypes: Collection[str], *shapes: tuple[int, ...]) -> None:
    """FormatError unless a tensor has one of the types, and one of the shapes if any are given."""
    if tensor.dtype not in dtypes:
        expected = " or ".join(dtypes)
        raise FormatError(tensor.path, f"type of {tensor.name}", tensor.dtype, expected)
    if shapes and tensor.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise FormatError(tensor.path, f"shape of {tensor.name}", tensor.shape, expected)


def matrix_shape(tensor: MappedTensor, dtype: str) -> tuple[int, int]:
    """Rows and columns of a tensor; FormatError unless it is a matrix of the type."""
    check(tensor, (dtype,))
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise FormatError(tensor.path, f"shape of {tensor.name}", tensor.shape, "a matrix")
    rows, columns = tensor.shape
    return rows, columns


def floats(tensor: MappedTensor, index: Any = ...) -> NDArray[np.float32]:
    """The numbers at an index of a tensor of F32, F16 or BF16, as float32."""
    numbers = tensor.array()[index]
    if tensor.dtype == "BF16":
        bits: NDArray[np.uint32] = numbers.astype(np.uint32) << 16
        return bits.view(np.float32)
    found: NDArray[np.float32] = numbers.astype(np.float32)
    return found


def unpack(
    words: NDArray[np.int32], bits: int, axis: int, begins: NDArray[np.uint32] | None = None
) -> NDArray[np.uint8]:
    """Numbers in words of 32 bits.

    Args:
        words: (rows, columns).
        bits: of a number, 4 or 8.
        axis: along which the numbers of a word follow each other: 0 or 1.
        begins: where number i begins in a word, in bits. Default: i * bits.
    """
    shifts = np.arange(0, 32, bits, dtype=np.uint32) if begins is None else begins
    spread = np.expand_dims(words.view(np.uint32), axis + 1) >> np.expand_dims(shifts, 1 - axis)
    rows, columns = words.shape
    shape = (rows * len(shifts), columns) if axis == 0 else (rows, columns * len(shifts))
    return (spread & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(shape)


def read_order(tensor: MappedTensor, columns: int, group: int) -> NDArray[np.int32] | None:
    """The group of each column, (columns,); None if columns of a group are neighbours.

    FormatError unless every group has `group` columns, or the last one fewer.
    """
    check(tensor, ("I32",), (columns,))
    order: NDArray[np.int32] = tensor.array()
    neighbours = np.arange(columns) // group
    if np.array_equal(order, neighbours):
        return None
    if not np.array_equal(np.sort(order), neighbours):
        expected = f"groups of {group} columns"
        raise FormatError(tensor.path, tensor.name, "no order of the columns", expected)
    return order
