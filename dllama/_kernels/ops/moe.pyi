import numpy as np
from numpy.typing import NDArray

def route(
    scores: NDArray[np.float32], taken: int, normalised: bool = True
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
