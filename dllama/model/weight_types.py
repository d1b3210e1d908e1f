"""How the numbers of a tensor are stored: a mirror of the table in dllama/_kernels/types.h."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class WeightType(IntEnum):
    """How numbers are stored. The values are those of model files.

    Attributes:
        block_size: numbers in a block. A row of a tensor is a whole number of blocks.
        block_bytes: bytes of a block in a file.
        quantised: whether matmuls with these weights read their input as Q80 blocks, not as
            float32.
        encoded: whether numbers can be converted to it without a search for scales.
    """

    block_size: int
    block_bytes: int
    quantised: bool
    encoded: bool

    def __new__(cls, value: int, *row: Any) -> WeightType:
        """A row of the table: the number of the type, and the attributes in their order."""
        self = int.__new__(cls, value)
        self._value_ = value
        self.block_size, self.block_bytes, self.quantised, self.encoded = row
        return self

    F32 = 0, 1, 4, False, True
    F16 = 1, 1, 2, False, True
    Q40 = 2, 32, 18, True, True
    Q80 = 3, 32, 34, True, True
    BF16 = 4, 1, 2, False, True
    Q41 = 5, 32, 20, True, False
    Q50 = 6, 32, 22, True, False
    Q51 = 7, 32, 24, True, False
    Q2K = 8, 256, 84, True, False
    Q3K = 9, 256, 110, True, False
    Q4K = 10, 256, 144, True, False
    Q5K = 11, 256, 176, True, False
    Q6K = 12, 256, 210, True, False
    IQ4NL = 13, 32, 18, True, False
    IQ4XS = 14, 256, 136, True, False
    MXFP4 = 15, 32, 17, True, False

    @property
    def unit(self) -> int:
        """Columns at whose multiples nodes can cut a row."""
        return min(32, self.block_size)

    @property
    def searched(self) -> bool:
        """Whether numbers can be converted to it by a search, which may weigh errors."""
        return self in _SEARCHED

    @property
    def writable(self) -> bool:
        """Whether numbers can be converted to it. The other types are only read."""
        return self.encoded or self.searched

    def covering(self, columns: range) -> range:
        """The columns of the blocks that hold some columns of a row."""
        size = self.block_size
        return range(columns.start // size * size, -(-columns.stop // size) * size)

    def nbytes(self, count: int) -> int:
        """Bytes of `count` numbers; `count` is a multiple of `block_size`."""
        return count // self.block_size * self.block_bytes


_SEARCHED = {
    WeightType.Q40, WeightType.Q41, WeightType.Q50, WeightType.Q51, WeightType.IQ4NL,
    WeightType.Q4K, WeightType.Q5K, WeightType.Q6K,
}  # fmt: skip
