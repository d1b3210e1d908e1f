"""Decoding of ggml's block formats in plain NumPy, and random blocks.

N: blocks. Every decoder takes their bytes, uint8 (N, bytes of a block), and returns their numbers,
float32 (N, numbers of a block). tests/test_oracle.py compares them with the package gguf.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dllama.model.weight_types import WeightType

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float32]

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
# Values of E2M1 (OCP Microscaling Formats, section 5.3.3).
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def _half(blocks: Bytes, at: int) -> Numbers:
    """The float16 number at a byte of each block, (N, 1)."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def _nibbles(data: Bytes) -> NDArray[np.int64]:
    """All low four bits, then all high four bits."""
    return np.concatenate([data & 15, data >> 4], axis=1).astype(np.int64)


def _fifth(data: Bytes) -> NDArray[np.int64]:
    """32 bits as 16 or 0."""
    return 16 * np.unpackbits(data, axis=1, bitorder="little").astype(np.int64)


def _spread(data: Bytes, run: int, width: int) -> NDArray[np.int64]:
    """Runs of bytes, each of 8 / width runs of numbers, of which the first has the lowest bits."""
    runs = data.reshape(len(data), -1, 1, run)
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return (runs >> shifts & ((1 << width) - 1)).reshape(len(data), -1).astype(np.int64)


def _by_scale(scale: NDArray, numbers: NDArray, low: NDArray | None = None) -> Numbers:
    """scale (N, S) times numbers (N, S * W), minus low (N, S)."""
    parts = numbers.reshape(*scale.shape, -1)
    out = scale[:, :, None].astype(np.float32) * parts.astype(np.float32)
    if low is not None:
        out = out - low[:, :, None].astype(np.float32)
    return out.reshape(numbers.shape).astype(np.float32)


def q41(b: Bytes) -> Numbers:
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def q50(b: Bytes) -> Numbers:
    return _half(b, 0) * (_nibbles(b[:, 6:]) + _fifth(b[:, 2:6]) - 16).astype(np.float32)


def q51(b: Bytes) -> Numbers:
    numbers = _nibbles(b[:, 8:]) + _fifth(b[:, 4:8])
    return _half(b, 0) * numbers.astype(np.float32) + _half(b, 2)


def iq4nl(b: Bytes) -> Numbers:
    return _half(b, 0) * IQ4[_nibbles(b[:, 2:])].astype(np.float32)


def mxfp4(b: Bytes) -> Numbers:
    return (np.exp2(b[:, :1].astype(np.float64) - 127) * E2M1[_nibbles(b[:, 1:])]).astype(
        np.float32
    )


def q2k(b: Bytes) -> Numbers:
    scale, low = _half(b, 80) * (b[:, :16] & 15), _half(b, 82) * (b[:, :16] >> 4)
    return _by_scale(scale, _spread(b[:, 16:80], 32, 2), low)


def q3k(b: Bytes) -> Numbers:
    low = _nibbles(b[:, 96:104])
    high = _spread(b[:, 104:108], 4, 2)
    numbers = _spread(b[:, 32:96], 32, 2) + 4 * _spread(b[:, :32], 32, 1) - 4
    return _by_scale(_half(b, 108) * (low + 16 * high - 32), numbers)


def _sixes(p: Bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Eight scales and eight mins of six bits each in twelve bytes."""
    a, b, c = p[:, :4], p[:, 4:8], p[:, 8:]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    return scales, np.concatenate([b & 63, c >> 4 | (b >> 6) << 4], axis=1)


def q4k(b: Bytes) -> Numbers:
    scales, mins = _sixes(b[:, 4:16])
    return _by_scale(_half(b, 0) * scales, _spread(b[:, 16:], 32, 4), _half(b, 2) * mins)


def q5k(b: Bytes) -> Numbers:
    scales, mins = _sixes(b[:, 4:16])
    numbers = _spread(b[:, 48:], 32, 4) + 16 * _spread(b[:, 16:48], 32, 1)
    return _by_scale(_half(b, 0) * scales, numbers, _half(b, 2) * mins)


def q6k(b: Bytes) -> Numbers:
    numbers = _spread(b[:, :128], 64, 4) + 16 * _spread(b[:, 128:192], 32, 2) - 32
    return _by_scale(_half(b, 208) * b[:, 192:208].copy().view(np.int8), numbers)


def iq4xs(b: Bytes) -> Numbers:
    high = b[:, 2:4].copy().view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(len(b), 8)
    numbers = _nibbles(b[:, 8:].reshape(-1, 16)).reshape(len(b), -1)
    return _by_scale(_half(b, 0) * (low + 16 * high.astype(np.int64) - 32), IQ4[numbers])


DECODERS: dict[WeightType, Callable[[Bytes], Numbers]] = {
    WeightType.Q41: q41,
    WeightType.Q50: q50,
    WeightType.Q51: q51,
    WeightType.Q2K: q2k,
    WeightType.Q3K: q3k,
    WeightType.Q4K: q4k,
    WeightType.Q5K: q5k,
    WeightType.Q6K: q6k,
    WeightType.IQ4NL: iq4nl,
    WeightType.IQ4XS: iq4xs,
    WeightType.MXFP4: mxfp4,
}

# Where the float16 numbers of a block are.
_HALVES = {
    WeightType.Q41: (0, 2),
    WeightType.Q50: (0,),
    WeightType.Q51: (0, 2),
    WeightType.Q2K: (80, 82),
    WeightType.Q3K: (108,),
    WeightType.Q4K: (0, 2),
    WeightType.Q5K: (0, 2),
    WeightType.Q6K: (208,),
    WeightType.IQ4NL: (0,),
    WeightType.IQ4XS: (0,),
    WeightType.MXFP4: (),
}


def random_blocks(
    rng: np.random.Generator, kind: WeightType, count: int, size: float = 1.0
) -> Bytes:
    """Blocks of numbers of about a size. All bits but those of the scales are random.

    MXFP4 has scales that are powers of 2.
    """
    blocks = rng.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    if kind is WeightType.MXFP4:
        blocks[:, 0] = round(np.log2(size)) + rng.integers(124, 128, count)
    for at in _HALVES[kind]:
        blocks[:, at : at + 2] = np.ones((count, 1), "<f2").view(np.uint8)
    scale = size / np.abs(DECODERS[kind](blocks)).mean(axis=1, keepdims=True)
    for at in _HALVES[kind]:
        half = (scale * rng.uniform(0.5, 1.5, (count, 1))).astype("<f2")
        blocks[:, at : at + 2] = half.view(np.uint8)
    return blocks
