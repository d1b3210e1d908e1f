import numpy as np
from numpy.typing import NDArray

def table() -> list[tuple[int, str, int, int, int, bool, bool]]: ...
def nbytes(weight_type: int, count: int) -> int: ...
def encode(
    src: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16],
    out: NDArray[np.uint8],
    weight_type: int,
    threads: int = 1,
    bf16: bool = False,
) -> bool: ...
def decode(
    src: NDArray[np.uint8], dst: NDArray[np.float32], weight_type: int, threads: int = 1
) -> None: ...

class StoredRows:
    rows: NDArray[np.uint8]
    weight_type: int
    cols: int
    def __init__(self, rows: NDArray[np.uint8], weight_type: int, cols: int) -> None: ...
    def lookup(self, ids: NDArray[np.int32]) -> NDArray[np.float32]: ...
