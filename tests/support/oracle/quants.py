"""How weights are stored: floats, Q40 and Q80 blocks of 32 numbers that share one float16 scale, or
the other formats of blocks.py.

B: blocks of a row, a row being a whole number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dllama.model.weight_types import WeightType

from .blocks import DECODERS, random_blocks

BLOCK = 32


@dataclass(frozen=True)
class Blocks:
    """A quantised matrix: value[r, b, i] = scales[r, b] * values[r, b, i].

    scales: float16 (rows, B). values: int8 (rows, B, 32), in -8..7 for Q40 and
    -127..127 for Q80.
    """

    scales: NDArray[np.float16]
    values: NDArray[np.int8]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.values.shape[0], self.values.shape[1] * BLOCK

    def dequantise(self) -> NDArray[np.float32]:
        """The numbers as float32 (rows, columns); exact: 11 bits times 8 bits."""
        product = self.scales.astype(np.float32)[:, :, None] * self.values.astype(np.float32)
        return product.reshape(self.shape)


def _as_blocks(x: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(x, dtype=np.float32))
    return rows.reshape(rows.shape[0], -1, BLOCK)


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale in float32, and 0 for 0."""
    one = np.float32(1)
    return np.divide(one, scale, out=np.zeros_like(scale), where=scale != 0)


def quantise_q40(x: NDArray[np.floating]) -> Blocks:
    """Q40 of x (rows, columns): d = the largest magnitude, signed, / -8; q = floor(x/d + 8.5) - 8.

    The float32 scale divides; the float16 one is stored. A tie of magnitudes
    takes the positive value, as the original converter does.
    """
    blocks = _as_blocks(x)
    low, high = blocks.min(axis=2), blocks.max(axis=2)
    scale = (np.where(-low > high, low, high) / np.float32(-8)).astype(np.float32)
    shifted = blocks * _inverse(scale)[:, :, None] + np.float32(8.5)
    nibbles = np.clip(shifted, 0, 15).astype(np.int8)
    return Blocks(scale.astype(np.float16), nibbles - np.int8(8))


def quantise_q80(x: NDArray[np.floating]) -> Blocks:
    """Q80 of x (rows, columns): d = max|x| / 127, q = x * (1/d) rounded half to even.

    The float32 scale divides; the float16 one is stored.
    """
    blocks = _as_blocks(x)
    scale = (np.abs(blocks).max(axis=2) / np.float32(127)).astype(np.float32)
    values = np.rint(blocks * _inverse(scale)[:, :, None])
    return Blocks(scale.astype(np.float16), np.clip(values, -127, 127).astype(np.int8))


def through_q80(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Vectors x (..., S) as Q80 holds them. The last block of each may be short."""
    missing = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % BLOCK)]
    padded = np.pad(np.asarray(x, np.float32), missing)
    stored = quantise_q80(padded.reshape(-1, padded.shape[-1])).dequantise()
    return stored.reshape(padded.shape)[..., : x.shape[-1]]


def pack_q40(blocks: Blocks) -> NDArray[np.uint8]:
    """File bytes (rows, B * 18): the scale, then 16 bytes of value i and value i+16."""
    nibbles = (blocks.values + np.int8(8)).astype(np.uint8)
    low, high = nibbles[:, :, :16], nibbles[:, :, 16:]
    return _with_scales(blocks.scales, low | (high << 4))


def pack_q80(blocks: Blocks) -> NDArray[np.uint8]:
    """File bytes (rows, B * 34): the scale, then 32 int8."""
    return _with_scales(blocks.scales, blocks.values.view(np.uint8))


def _with_scales(scales: NDArray[np.float16], payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
    head = np.ascontiguousarray(scales.astype("<f2"))[:, :, None].view(np.uint8)
    return np.concatenate([head, payload], axis=2).reshape(len(scales), -1)


def unpack_q40(raw: NDArray[np.uint8], rows: int) -> Blocks:
    """Blocks of the file bytes of a Q40 matrix with `rows` rows."""
    data = np.asarray(raw, dtype=np.uint8).reshape(rows, -1, 2 + BLOCK // 2)
    payload = data[:, :, 2:]
    nibbles = np.concatenate([payload & 15, payload >> 4], axis=2).astype(np.int8)
    return Blocks(_scales(data), nibbles - np.int8(8))


def unpack_q80(raw: NDArray[np.uint8], rows: int) -> Blocks:
    """Blocks of the file bytes of a Q80 matrix with `rows` rows."""
    data = np.asarray(raw, dtype=np.uint8).reshape(rows, -1, 2 + BLOCK)
    return Blocks(_scales(data), data[:, :, 2:].copy().view(np.int8))


def _scales(data: NDArray[np.uint8]) -> NDArray[np.float16]:
    return data[:, :, :2].copy().view("<f2")[:, :, 0].astype(np.float16)


@dataclass(frozen=True)
class Decoded:
    """A quantised matrix of which only the numbers are known: floats (rows, columns)."""

    numbers: NDArray[np.floating]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.numbers.shape[0], self.numbers.shape[1]

    def dequantise(self) -> NDArray[np.floating]:
        """The numbers."""
        return self.numbers


Weight = NDArray[np.floating] | Blocks | Decoded


def dense(weight: Weight) -> NDArray[np.floating]:
    """The numbers of a stored matrix."""
    return weight.dequantise() if isinstance(weight, Blocks | Decoded) else weight


def widened(weight: Weight) -> Weight:
    """The same numbers in float64, so that products with few rows need not convert them."""
    numbers = dense(weight).astype(np.float64)
    return Decoded(numbers) if isinstance(weight, Blocks | Decoded) else numbers


class Stored(NamedTuple):
    """A weight type.

    unpack: file bytes, rows -> a matrix as the type holds it: Blocks, Decoded, or numbers.
    store: numbers (rows, columns) -> such a matrix, if numbers can be converted to the type.
    pack: such a matrix -> file bytes (rows, bytes of a row).
    """

    unpack: Callable[[NDArray[np.uint8], int], Any]
    store: Callable[[NDArray[np.floating]], Any] | None = None
    pack: Callable[[Any], NDArray[np.uint8]] | None = None


def _floats(dtype: str) -> Stored:
    return Stored(
        lambda raw, rows: raw.reshape(rows, -1).view(dtype),
        lambda x: np.ascontiguousarray(x, dtype),
        lambda stored: stored.view(np.uint8),
    )


def round_bf16(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """The nearest numbers of eight bits, half to even, as float32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


BFLOAT16 = Stored(
    lambda raw, rows: (raw.reshape(rows, -1).view("<u2").astype("<u4") << 16).view("<f4"),
    round_bf16,
    lambda stored: np.ascontiguousarray(stored.view("<u2")[:, 1::2]).view(np.uint8),
)


def _blocks(kind: WeightType) -> Stored:
    def unpack(raw: NDArray[np.uint8], rows: int) -> Decoded:
        return Decoded(DECODERS[kind](raw.reshape(-1, kind.block_bytes)).reshape(rows, -1))

    return Stored(unpack)


TYPES = {
    WeightType.F32: _floats("<f4"),
    WeightType.F16: _floats("<f2"),
    WeightType.BF16: BFLOAT16,
    WeightType.Q40: Stored(unpack_q40, quantise_q40, pack_q40),
    WeightType.Q80: Stored(unpack_q80, quantise_q80, pack_q80),
    **{kind: _blocks(kind) for kind in DECODERS},
}


def random_matrix(
    rng: np.random.Generator, kind: WeightType, rows: int, columns: int, size: float = 1.0
) -> tuple[Any, NDArray[np.uint8]]:
    """A random matrix as the type holds it, and its file bytes (rows, bytes of a row).

    size: of its numbers, about.
    """
    if kind in DECODERS:
        count = rows * columns // kind.block_size
        raw = random_blocks(rng, kind, count, size).reshape(rows, -1)
        return TYPES[kind].unpack(raw, rows), raw
    stored = TYPES[kind].store(size * rng.standard_normal((rows, columns)))
    return stored, TYPES[kind].pack(stored)
