import numpy as np
from numpy.typing import NDArray

OCTAVES: int
MAX_OCTAVE: int

def top(logits: NDArray[np.float32]) -> tuple[float, int]: ...
def masses(logits: NDArray[np.float32], temperature: float) -> tuple[int, NDArray[np.uint64]]: ...
def mass_before(
    logits: NDArray[np.float32],
    temperature: float,
    octave: int,
    logit: float,
    token: int,
    offset: int = 0,
) -> int: ...
def race(
    logits: NDArray[np.float32],
    temperature: float,
    seed: int,
    number: int,
    offset: int = 0,
    octave: int = ...,
    least: float = ...,
    limit: float = ...,
    limit_token: int = ...,
) -> tuple[tuple[float, int], tuple[float, int, float]]: ...
def gumbel(ids: NDArray[np.int64], seed: int, number: int) -> NDArray[np.float64]: ...
def candidates(
    logits: NDArray[np.float32], k: int, offset: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
