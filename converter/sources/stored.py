"""Tensors in memory-mapped files, read some rows at a time."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama.errors import FormatError, ModelError
from dllama.git_lfs import MAGIC, refuse_pointer
from dllama.model.weight_types import WeightType

Tensor = TypeVar("Tensor", bound="Stored")
Whole = TypeVar("Whole", bound="Derived")
# NumPy types of the elements that can be read directly; bfloat16 is read as its bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
# Those and the types of which quantised weights consist, with names of safetensors.
ELEMENTS: dict[str, np.dtype[Any]] = {
    **DTYPES,
    "F8_E4M3": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
# Types whose rows consist of the same blocks as in model files.
BLOCKS = {kind.name: kind for kind in WeightType if kind.block_size > 1}


class Stored(Protocol):
    """A tensor of a checkpoint.

    Attributes:
        path: the file that contains it.
        name: its name there.
        dtype: F32, F16, BF16, a name in BLOCKS, or a type that cannot be converted.
        shape: rows first.
        nbytes: bytes in the files.
        lossy: name of the quantisation that `rows` decodes, or "".
    """

    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def lossy(self) -> str: ...

    def part(self, index: int, count: int, span: int = 1) -> Stored:
        """Return `span` of `count` equal runs of rows, where all axes but the last count as rows.

        The first of them is run `index`. It is the tensor itself if count is 1. FormatError if it
        cannot be divided.
        """
        ...

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count: numbers (count, columns) or (count,).

        Rows of blocks are returned as bytes: uint8 (count, bytes per row).
        """
        ...

    def release(self) -> None:
        """Release the memory of the tensor's pages."""
        ...


class MappedFile:
    """A file that is mapped into memory for reading.

    ModelError if it cannot be, or is a Git LFS pointer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot read: {error}") from error
        refuse_pointer(self.data[: len(MAGIC)], path)

    def release(self, begin: int, nbytes: int) -> None:
        """Release the memory of the pages that contain only these bytes."""
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = begin + nbytes - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.data.madvise(mmap.MADV_DONTNEED, first, length)


@dataclass(frozen=True)
class MappedTensor:
    """A tensor with contiguous rows in a mapped file.

    Whoever creates one has checked that it lies within the file.

    Attributes:
        file: the file that contains it.
        name: its name there.
        dtype: as in Stored.
        shape: rows first.
        begin: offset in the file, in bytes.
        lossy: always "".
    """

    file: MappedFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    lossy: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def nbytes(self) -> int:
        """Bytes in the file; 0 for a type that cannot be converted."""
        return row_bytes(self.dtype, self.shape) * self.shape[0] if self.shape else 0

    def part(self, index: int, count: int, span: int = 1) -> MappedTensor:
        """Return some of `count` equal runs of rows."""
        shape, nbytes = part_shape(self, count, span), self.nbytes // count
        return self if count == 1 else replace(self, shape=shape, begin=self.begin + index * nbytes)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count as a view of the file."""
        width = row_bytes(self.dtype, self.shape)
        dtype = DTYPES.get(self.dtype, np.dtype(np.uint8))
        begin = self.begin + first * width
        flat = np.frombuffer(self.file.data, dtype, count * width // dtype.itemsize, begin)
        return (
            flat.reshape(count, -1)
            if self.dtype in BLOCKS
            else flat.reshape(count, *self.shape[1:])
        )

    def flat(self) -> MappedTensor:
        """Return a tensor of several axes as a matrix, whose columns are the last axis."""
        return replace(self, shape=(math.prod(self.shape[:-1]), self.shape[-1]))

    def array(self) -> NDArray[Any]:
        """Return all numbers of a type in ELEMENTS, in the tensor's shape, as a view of the file.

        BF16 and F8_E4M3 are returned as their bits.
        """
        count = math.prod(self.shape)
        flat = np.frombuffer(self.file.data, ELEMENTS[self.dtype], count, self.begin)
        return flat.reshape(self.shape)

    def release(self) -> None:
        """Release the memory of the tensor's pages."""
        self.file.release(self.begin, self.nbytes)


@dataclass(frozen=True)
class Derived:
    """A tensor that another one is made of; attributes as in Stored."""

    stored: Stored

    @property
    def path(self) -> Path:
        """The file."""
        return self.stored.path

    @property
    def name(self) -> str:
        """Its name there."""
        return self.stored.name

    @property
    def dtype(self) -> str:
        """As in Stored."""
        return self.stored.dtype

    @property
    def lossy(self) -> str:
        """As in Stored."""
        return self.stored.lossy

    @property
    def shape(self) -> tuple[int, ...]:
        """As in Stored."""
        return self.stored.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.stored.nbytes

    def part(self: Whole, index: int, count: int, span: int = 1) -> Whole:
        """Return what is made of `span` of `count` equal runs of rows."""
        return replace(self, stored=self.stored.part(index, count, span))

    def release(self) -> None:
        """Release the memory of the tensor's pages."""
        self.stored.release()


@dataclass(frozen=True)
class Added(Derived):
    """A tensor of floats, with a number added to each of its own."""

    number: float

    @property
    def dtype(self) -> str:
        """Of the sums."""
        return "F32"

    @property
    def lossy(self) -> str:
        """Always ""."""
        return ""

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Return rows first to first + count."""
        return floats(self.stored.rows(first, count), self.stored.dtype) + np.float32(self.number)


def floats(rows: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return rows of a type in DTYPES as float32."""
    if dtype == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


def part_shape(tensor: Stored, count: int, span: int = 1) -> tuple[int, ...]:
    """Return the shape of `span` of `count` equal parts; FormatError if there are none.

    Parts are rows, or numbers of a vector.
    """
    if count == 1:
        return tensor.shape
    rows, columns = math.prod(tensor.shape[:-1] or tensor.shape), tensor.shape[1:][-1:]
    if not tensor.shape or rows % count:
        raise _no_parts(tensor, count)
    return rows // count * span, *columns


def undivided(tensor: Tensor, count: int) -> Tensor:
    """Return a tensor that has no parts but itself; FormatError if `count` is not 1."""
    if count != 1:
        raise _no_parts(tensor, count)
    return tensor


def _no_parts(tensor: Stored, count: int) -> FormatError:
    shape = f"shape of {tensor.name}"
    return FormatError(tensor.path, shape, tensor.shape, f"{count} equal parts")


def row_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a row; 0 for a type that cannot be converted."""
    count = math.prod(shape[1:])
    if dtype in BLOCKS:
        return BLOCKS[dtype].nbytes(count)
    return count * ELEMENTS[dtype].itemsize if dtype in ELEMENTS else 0
