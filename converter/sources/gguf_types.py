"""The types of tensors in GGUF files: those that model files have, and all others.

Numbers and names are those of gguf-py/gguf/constants.py of github.com/ggml-org/llama.cpp. Without
its underscores, a name is that of our weight type with the same blocks, if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dllama.converter.extras import require
from dllama.converter.sources.gguf_header import TensorEntry
from dllama.converter.sources.stored import (
    BLOCKS,
    DTYPES,
    MappedFile,
    MappedTensor,
    Stored,
    part_shape,
)
from dllama.errors import FormatError, UnsupportedError

NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip

THEIRS = {name.replace("_", ""): name for name in NAMES.values()}


class _Decoder(NamedTuple):
    """How the package gguf decodes a type."""

    kind: Any
    block: int
    block_nbytes: int
    dequantize: Callable[[NDArray[np.uint8], Any], NDArray[np.float32]]


@dataclass(frozen=True)
class ForeignTensor:
    """A tensor of a type that model files do not have. The package gguf converts it to float32.

    Nothing needs the package before sizes or numbers are asked for. UnsupportedError if it is not
    installed or does not know the type, FormatError if the tensor does not lie within the file.

    Attributes:
        file: the file that contains it.
        name: its name in the file.
        number: of its type.
        whole_shape: rows first.
        whole_begin: offset in the file, in bytes.
        index, count, span: the first of how many equal runs of rows this is, and how many it is.
        dtype: of the rows that are read.
    """

    file: MappedFile
    name: str
    number: int
    whole_shape: tuple[int, ...]
    whole_begin: int
    index: int = 0
    count: int = 1
    span: int = 1
    dtype: str = "F32"

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def lossy(self) -> str:
        """Name of the type."""
        return type_name(self.number)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        if self.count == 1:
            return self.whole_shape
        return math.prod(self.whole_shape[:-1]) // self.count * self.span, self.whole_shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self._decoder.block * self._decoder.block_nbytes

    @property
    def begin(self) -> int:
        """Offset in the file, in bytes."""
        return self.whole_begin + self.index * self.nbytes // self.span

    def part(self, index: int, count: int, span: int = 1) -> ForeignTensor:
        """Return some of `count` equal runs of rows."""
        part_shape(self, count)
        return self if count == 1 else replace(self, index=index, count=count, span=span)

    def flat(self) -> ForeignTensor:
        """Return a tensor of several axes as a matrix, whose columns are the last axis."""
        return replace(self, whole_shape=(math.prod(self.whole_shape[:-1]), self.whole_shape[-1]))

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count as float32 (count, columns)."""
        decoder, size = self._decoder, self.nbytes // self.shape[0]
        raw = np.frombuffer(self.file.data, np.uint8, count * size, self.begin + first * size)
        numbers = decoder.dequantize(raw.reshape(-1, decoder.block_nbytes), decoder.kind)
        return numbers.reshape(count, *self.shape[1:])

    def release(self) -> None:
        """Release the memory of the tensor's pages."""
        self.file.release(self.begin, self.nbytes)

    @cached_property
    def _decoder(self) -> _Decoder:
        what = f"{self.path}: {self.name}, which is {self.lossy},"
        package = require("gguf", "gguf", what)
        try:
            kind = package.GGMLQuantizationType(self.number)
            block, nbytes = package.GGML_QUANT_SIZES[kind]
            package.dequantize(np.zeros((1, nbytes), np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise UnsupportedError(
                f"{self.path}: {self.name} is {self.lossy}, which cannot be read ({error})"
            ) from error
        shape, begin = self.whole_shape, self.whole_begin
        size = math.prod(shape) // block * nbytes
        _check(self.file, self.name, self.lossy, shape, begin, block, size)
        return _Decoder(kind, block, nbytes, package.dequantize)


Mapped = MappedTensor | ForeignTensor


def type_name(number: int) -> str:
    """ggml's name of a type."""
    return NAMES.get(number, f"of the unknown type {number}")


def kind_of(stored: Stored) -> str:
    """ggml's name of the type of a tensor."""
    return stored.lossy or THEIRS.get(stored.dtype, stored.dtype)


def is_known(stored: Stored) -> bool:
    """Whether ggml has the type of a tensor."""
    return kind_of(stored) in NAMES.values()


def open_tensor(file: MappedFile, entry: TensorEntry) -> Mapped:
    """Create a tensor; FormatError unless its rows are whole blocks within the file."""
    dtype = NAMES.get(entry.type, "").replace("_", "")
    if dtype not in DTYPES and dtype not in BLOCKS:
        # No type has less than a bit for each number; the exact size is checked when it is known.
        _check(file, entry.name, type_name(entry.type), entry.shape, entry.begin, 1,
               math.prod(entry.shape) // 8)  # fmt: skip
        return ForeignTensor(file, entry.name, entry.type, entry.shape, entry.begin)
    tensor = MappedTensor(file, entry.name, dtype, entry.shape, entry.begin)
    block = BLOCKS[dtype].block_size if dtype in BLOCKS else 1
    name = type_name(entry.type)
    _check(file, entry.name, name, entry.shape, entry.begin, block, tensor.nbytes)
    return tensor


def check_places(path: Path, tensors: Iterable[Mapped]) -> None:
    """FormatError if tensors of a file overlap. The sizes of foreign ones are not known."""
    known = [tensor for tensor in tensors if isinstance(tensor, MappedTensor)]
    known.sort(key=lambda tensor: tensor.begin)
    for one, other in pairwise(known):
        if one.begin + one.nbytes > other.begin:
            found = f"byte {other.begin}, within {one.name}"
            raise FormatError(path, f"begin of {other.name}", found, "a place of its own")


def _check(
    file: MappedFile,
    name: str,
    kind: str,
    shape: tuple[int, ...],
    begin: int,
    block: int,
    nbytes: int,
) -> None:
    """FormatError unless the rows of a tensor are whole blocks, and its bytes within the file."""
    if shape[-1] % block or len(shape) == 1 < block:
        raise FormatError(
            file.path, f"shape of {name} ({kind})", shape, f"rows of whole blocks of {block}"
        )
    if begin + nbytes > len(file.data):
        found = f"bytes {begin} to {begin + nbytes}"
        raise FormatError(
            file.path, f"{name} ({kind})", found, f"at most {len(file.data)} (the file is cut off)"
        )
