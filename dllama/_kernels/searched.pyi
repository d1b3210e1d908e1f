import numpy as np
from numpy.typing import NDArray

def is_searched(weight_type: int) -> bool: ...
def search(
    rows: NDArray[np.float32],
    out: NDArray[np.uint8],
    weight_type: int,
    importance: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> bool: ...
