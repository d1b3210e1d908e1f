"""How the numbers of a tensor are stored: a mirror of the table in dllama/_kernels/types.h."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class WeightType(IntEnum):
    """How numbers are stored. The values are those of model files."""

    F32 = 0
    F16 = 1
    Q40 = 2
    Q80 = 3
    BF16 = 4
    Q41 = 5
    Q50 = 6
    Q51 = 7
    Q2K = 8
    Q3K = 9
    Q4K = 10
    Q5K = 11
    Q6K = 12
    IQ4NL = 13
    IQ4XS = 14
    MXFP4 = 15

    @property
    def block_size(self) -> int:
        """Numbers in a block. A row of a tensor is a whole number of blocks."""
        return _ROWS[self].block_size

    @property
    def unit(self) -> int:
        """Columns at whose multiples nodes can cut a row."""
        return min(32, self.block_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in a file."""
        return _ROWS[self].block_bytes

    @property
    def quantised(self) -> bool:
        """Whether matmuls with these weights read their input as Q80 blocks, not as float32."""
        return _ROWS[self].quantised

    @property
    def encoded(self) -> bool:
        """Whether numbers can be converted to it without a search for scales."""
        return _ROWS[self].encoded

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


class _Row(NamedTuple):
    block_size: int
    block_bytes: int
    quantised: bool
    encoded: bool


_ROWS = {
    WeightType.F32: _Row(1, 4, False, True),
    WeightType.F16: _Row(1, 2, False, True),
    WeightType.Q40: _Row(32, 18, True, True),
    WeightType.Q80: _Row(32, 34, True, True),
    WeightType.BF16: _Row(1, 2, False, True),
    WeightType.Q41: _Row(32, 20, True, False),
    WeightType.Q50: _Row(32, 22, True, False),
    WeightType.Q51: _Row(32, 24, True, False),
    WeightType.Q2K: _Row(256, 84, True, False),
    WeightType.Q3K: _Row(256, 110, True, False),
    WeightType.Q4K: _Row(256, 144, True, False),
    WeightType.Q5K: _Row(256, 176, True, False),
    WeightType.Q6K: _Row(256, 210, True, False),
    WeightType.IQ4NL: _Row(32, 18, True, False),
    WeightType.IQ4XS: _Row(256, 136, True, False),
    WeightType.MXFP4: _Row(32, 17, True, False),
}

_SEARCHED = {
    WeightType.Q40, WeightType.Q41, WeightType.Q50, WeightType.Q51, WeightType.IQ4NL,
    WeightType.Q4K, WeightType.Q5K, WeightType.Q6K,
}  # fmt: skip
