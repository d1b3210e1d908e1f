"""Blocks of model files that hold small integers and their scales exactly.

R: rows. B: blocks of 32 numbers in a row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dllama.model.weight_types import WeightType

BLOCK = 32

Integers = NDArray[np.int16]  # (R, B, 32)
Bytes = NDArray[np.uint8]


def exact_type(low: int, high: int) -> WeightType | None:
    """The smallest type that holds all integers from low to high, with a scale per block."""
    for kind, (lowest, highest, _) in _TYPES.items():
        if lowest <= low and high <= highest:
            return kind
    return None


def pack(kind: WeightType, integers: NDArray[np.int16], scales: NDArray[np.float32]) -> Bytes:
    """Blocks of integers, uint8 (R, bytes of a row).

    Args:
        kind: a type that `exact_type` returns.
        integers: (R, 32 * B), in the range of the type.
        scales: (R, B), stored as float16. One that is too large becomes infinite.
    """
    rows = len(integers)
    _, _, payload = _TYPES[kind]
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(scales.astype("<f2"))
    head = halves.view(np.uint8).reshape(rows, -1, 2)
    body = payload(integers.reshape(rows, -1, BLOCK))
    return np.concatenate([head, body], axis=2).reshape(rows, -1)


def _nibbles(numbers: NDArray[np.uint8]) -> Bytes:
    """The low four bits of number i and of number i + 16 in byte i."""
    low, high = np.split(numbers, 2, axis=2)
    packed: Bytes = low & np.uint8(15) | high << np.uint8(4)
    return packed


def _q40(integers: Integers) -> Bytes:
    return _nibbles((integers + 8).astype(np.uint8))


def _q50(integers: Integers) -> Bytes:
    numbers = (integers + 16).astype(np.uint8)
    fifth = np.packbits(numbers >> 4, axis=2, bitorder="little")
    return np.concatenate([fifth, _nibbles(numbers)], axis=2)


def _q80(integers: Integers) -> Bytes:
    return integers.astype(np.int8).view(np.uint8)


# The least and the largest integer, and what follows the scale of a block.
_TYPES: dict[WeightType, tuple[int, int, Callable[[Integers], Bytes]]] = {
    WeightType.Q40: (-8, 7, _q40),
    WeightType.Q50: (-16, 15, _q50),
    WeightType.Q80: (-128, 127, _q80),
}
