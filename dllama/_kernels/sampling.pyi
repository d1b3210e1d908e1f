import numpy as np
from numpy.typing import NDArray

def scan(logits: NDArray[np.float32], inverse_temperature: float) -> tuple[float, int, float]: ...
def candidates(
    logits: NDArray[np.float32], k: int, offset: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def winner(
    logits: NDArray[np.float32],
    inverse_temperature: float,
    seed: int,
    step: int,
    offset: int = 0,
) -> tuple[int, float]: ...
def gumbel(ids: NDArray[np.int32], seed: int, step: int) -> NDArray[np.float64]: ...
