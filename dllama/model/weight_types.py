"""How the numbers of a tensor are stored: the rows of dllama/_kernels/types.h in Python."""

from __future__ import annotations

from enum import IntEnum


class WeightType(IntEnum):
    """A weight type, by its number in model files.

    block_size: numbers in one block; rows are whole blocks.
    block_bytes: bytes of one block in a file.
    quantised: whether a matmul with such weights reads its input as Q80 blocks; else as float32.
    """

    _value_: int
    block_size: int
    block_bytes: int
    quantised: bool

    F32 = 0, 1, 4, False
    F16 = 1, 1, 2, False
    Q40 = 2, 32, 18, True
    Q80 = 3, 32, 34, True

    def __new__(cls, number: int, block_size: int, block_bytes: int, quantised: bool) -> WeightType:
        """A member, whose value is the number alone."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.block_size = block_size
        member.block_bytes = block_bytes
        member.quantised = quantised
        return member

    def nbytes(self, count: int) -> int:
        """Bytes of `count` numbers; `count` is a multiple of `block_size`."""
        return count // self.block_size * self.block_bytes
