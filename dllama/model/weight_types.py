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

    @property
    def block_size(self) -> int:
        """Numbers in a block. A row is a whole number of blocks."""
        return _ROWS[self].block_size

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in a file."""
        return _ROWS[self].block_bytes

    @property
    def quantised(self) -> bool:
        """Whether matmuls with these weights read their input as Q80 blocks, not as float32."""
        return _ROWS[self].quantised

    def nbytes(self, count: int) -> int:
        """Bytes of `count` numbers; `count` is a multiple of `block_size`."""
        return count // self.block_size * self.block_bytes


class _Row(NamedTuple):
    block_size: int
    block_bytes: int
    quantised: bool


_ROWS = {
    WeightType.F32: _Row(1, 4, False),
    WeightType.F16: _Row(1, 2, False),
    WeightType.Q40: _Row(32, 18, True),
    WeightType.Q80: _Row(32, 34, True),
}
