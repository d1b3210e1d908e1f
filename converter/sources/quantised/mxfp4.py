"""MXFP4 as gpt-oss stores it: blocks of 32 numbers of 4 bits with a power of 2.

Open Compute Project 2023 (OCP Microscaling Formats (MX) specification, section 5.2).

    NAME_blocks  U8 (experts, rows, blocks of a row, 16): number 2 b in the low half of byte b,
                 number 2 b + 1 in the high half
    NAME_scales  U8 (experts, rows, blocks of a row): e in 2^(e - 127)

Model files have the same numbers in blocks of their own: the scale, then number b in the low half
of byte b and number b + 16 in the high half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.quantised.matrix import check
from dllama.converter.sources.quantised.settings import Settings
from dllama.converter.sources.stored import MappedTensor, Stored, part_shape
from dllama.errors import DllamaError, FormatError, UnsupportedError
from dllama.model.weight_types import WeightType

METHOD = "mxfp4"
BLOCKS, SCALES = "_blocks", "_scales"
BYTES = 16  # of a block, without the scale


def read_scheme(settings: Settings) -> Mxfp4:
    """The scheme that a quantization_config describes."""
    settings.names("modules_to_not_convert")  # the tensors of a module say whether it is
    settings.refuse_others(frozenset())
    return Mxfp4(settings.name)


@dataclass(frozen=True)
class Mxfp4:
    """How the weights of a checkpoint are quantised.

    Attributes:
        name: for messages.
        weights, file, inexact: as in Scheme.
    """

    name: str
    weights: str | None = "q80"
    file: str = ""
    inexact: str = ""

    def names(self, weights: set[str]) -> set[str]:
        """The names of all tensors that may be there for some weights."""
        stems = {name.removesuffix(BLOCKS) for name in weights if name.endswith(BLOCKS)}
        return {*weights, *(stem + SCALES for stem in stems)}

    def matrices(
        self,
        tensors: Mapping[str, MappedTensor],
        absent: Mapping[str, DllamaError],
        path: object,
    ) -> tuple[dict[str, Stored], dict[str, DllamaError]]:
        """Put blocks with their scales in place of both; arguments and errors as in Scheme."""
        found: dict[str, Stored] = {}
        count = 0
        for name, tensor in tensors.items():
            stem = name.removesuffix(BLOCKS)
            if name.endswith(SCALES) and name.removesuffix(SCALES) + BLOCKS in tensors:
                continue
            if name == stem:
                found[name] = tensor
            elif stem + SCALES in absent:
                raise absent[stem + SCALES]
            elif stem + SCALES not in tensors:
                raise FormatError(tensor.path, stem + SCALES, "missing", f"it beside {name}")
            else:
                found[name] = _matrix(tensor, tensors[stem + SCALES])
                count += 1
        if not count and not absent:
            raise UnsupportedError(f"{path}: {self.name}: no tensor is quantised in this way")
        return found, dict(absent)


def _matrix(blocks: MappedTensor, scales: MappedTensor) -> BlockMatrix:
    """A matrix of all experts; FormatError names a tensor of a wrong type or shape."""
    if len(blocks.shape) != 4 or blocks.shape[-1] != BYTES:
        expected = f"(experts, rows, blocks, {BYTES})"
        raise FormatError(blocks.path, f"shape of {blocks.name}", blocks.shape, expected)
    check(blocks, ("U8",), blocks.shape)
    check(scales, ("U8",), blocks.shape[:-1])
    experts, rows, count, _ = blocks.shape
    return BlockMatrix(blocks, scales, (experts * rows, 32 * count))


@dataclass(frozen=True)
class BlockMatrix:
    """Rows of MXFP4 blocks, some of those of all experts.

    Attributes:
        blocks, scales: the tensors.
        shape: rows and columns.
        at: the first row.
    """

    blocks: MappedTensor
    scales: MappedTensor
    shape: tuple[int, ...]
    at: int = 0
    dtype: str = WeightType.MXFP4.name
    lossy: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.blocks.path

    @property
    def name(self) -> str:
        """The name of the blocks."""
        return self.blocks.name

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // 32 * (BYTES + 1)

    def part(self, index: int, count: int, span: int = 1) -> BlockMatrix:
        """Return some of `count` equal runs of rows."""
        shape = part_shape(self, count, span)
        if count == 1:
            return self
        return replace(self, shape=shape, at=self.at + index * shape[0] // span)

    def rows(self, first: int, count: int) -> NDArray[np.uint8]:
        """Return rows first to first + count: blocks, uint8 (count, bytes)."""
        rows = slice(self.at + first, self.at + first + count)
        width = self.shape[1] // 32
        pairs = self.blocks.array().reshape(-1, width, BYTES)[rows]
        scales = self.scales.array().reshape(-1, width, 1)[rows]
        numbers = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(count, width, 2, BYTES)
        halves = numbers[:, :, 0] | numbers[:, :, 1] << 4
        return np.concatenate([scales, halves], axis=-1).reshape(count, -1)

    def release(self) -> None:
        """Release the memory of the pages of both tensors."""
        self.blocks.release()
        self.scales.release()
