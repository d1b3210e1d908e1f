import numpy as np
from numpy.typing import NDArray

def route(
    scores: NDArray[np.float32],
    taken: int,
    normalised: bool = True,
    correction: NDArray[np.float32] | None = None,
    scales: NDArray[np.float32] | None = None,
    *,
    sigmoid: bool = False,
    groups: int = 1,
    groups_taken: int = 1,
    group_best: int = 1,
    scale: float = 1.0,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
