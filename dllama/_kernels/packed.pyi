import numpy as np
from numpy.typing import NDArray

def packed_nbytes(rows: int, cols: int, weight_type: int, skip: int = 0) -> int: ...

class Pool:
    def __init__(self, nbytes: int) -> None: ...

class PackedMatrix:
    rows: int
    cols: int
    weight_type: int
    quantised: bool
    nbytes: int
    skip: int
    def __init__(
        self, rows: int, cols: int, weight_type: int, skip: int = 0, pool: Pool | None = None
    ) -> None: ...
    def fill(
        self, first: int, src: NDArray[np.uint8], block: int = 0, stride: int = 0, threads: int = 1
    ) -> bool: ...
