from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.packed import PackedMatrix

def matmul(
    matrix: PackedMatrix,
    x: NDArray[np.float32],
    order: Sequence[tuple[int, int]] | None = None,
    threads: int = 1,
) -> NDArray[np.float32]: ...

class MatmulOp: ...
