"""How nodes send numbers to each other (dllama/_kernels/simd/wire.h)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .quants import Blocks, _as_blocks, _inverse, quantise_q80

STRIP, BLOCK = 64, 32

Floats = NDArray[np.float32]


def hadamard(x: Floats) -> Floats:
    """The Walsh-Hadamard transform of the last axis, in float32: neighbours first."""
    n = x.shape[-1]
    apart = 1
    while apart < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * apart), 2, apart)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], axis=-2).reshape(x.shape)
        apart *= 2
    return x


def borders(dim: int, nodes: int) -> list[int]:
    """Columns before the chunk of each node, and dim: whole blocks, cut evenly."""
    blocks = -(-dim // BLOCK)
    return [min(dim, -(-blocks * rank // nodes) * BLOCK) for rank in range(nodes + 1)]


def rotated(x: Floats, nodes: int, back: bool = False) -> Floats:
    """Rows x (..., dim), 64 numbers of a chunk at a time, or the last 32, transformed or back."""
    out = np.empty_like(x)
    cuts = borders(x.shape[-1], nodes)
    for begin, end in pairwise(cuts):
        for at in range(begin, end, STRIP):
            strip = slice(at, min(end, at + STRIP))
            whole = strip.stop - strip.start == STRIP
            scale = np.float32(1 / 8 if whole or back else 1 / 4)
            out[..., strip] = hadamard(x[..., strip]) * scale
    return out


def quantise_q60(x: Floats) -> Blocks:
    """As Q80, with d = max|x| / 31."""
    blocks = _as_blocks(x)
    scale = (np.abs(blocks).max(axis=2) / np.float32(31)).astype(np.float32)
    values = np.rint(blocks * _inverse(scale)[:, :, None])
    return Blocks(scale.astype(np.float16), np.clip(values, -31, 31).astype(np.int8))


def rounded(x: Floats, wire: str) -> Floats:
    """Rows x (T, dim), rotated if they are sent so, after they are sent."""
    if wire == "f16":
        return x.astype(np.float16).astype(np.float32)
    quantise = {"q80": quantise_q80, "q60": quantise_q60}.get(wire)
    return quantise(x).dequantise() if quantise else x


def all_reduce(rows: Floats, wire: str, two_step: bool) -> Floats:
    """The sum of rows (nodes, T, dim), added in the order of nodes: float32 (T, dim)."""
    nodes, turns = len(rows), wire in ("q80", "q60")
    sent = rotated(rows, nodes) if turns else rows
    total = rounded(sent[0], wire)
    for one in sent[1:]:
        total = total + rounded(one, wire)
    if two_step:
        total = rounded(total, wire)
    return rotated(total, nodes, back=True) if turns else total
