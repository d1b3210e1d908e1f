from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.link import Link

WIRES: dict[str, int]
ALGORITHMS: dict[str, int]

def wire_bytes(wire: str, n: int) -> int: ...
def chunk_borders(dim: int, n: int) -> list[int]: ...
def takes_two_steps(algorithm: str, n: int, sums: int, nbytes: int) -> bool: ...

class Communicator:
    dim: int
    max_rows: int
    wire: int
    algorithm: int
    def __init__(
        self,
        links: list[Link | None],
        rank: int,
        *,
        dim: int,
        max_rows: int,
        wire: str,
        algorithm: str = "auto",
        timeout: float = 5.0,
        watched: dict[int, Link] | None = None,
        sums: Sequence[int] | None = None,
        widest: int = 0,
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def failed(self) -> bool: ...
    @property
    def failed_rank(self) -> int | None: ...
    def check(self) -> None: ...
    def traffic(self) -> tuple[int, int]: ...
    def encoding_of(self, x: NDArray[np.float32]) -> int: ...
    def all_reduce(
        self,
        src: NDArray[np.float32],
        dst: NDArray[np.float32],
        adds: Sequence[Sequence[int]] | None = None,
        carries: bool = False,
        begins: bool = False,
    ) -> None: ...
    def broadcast(self, x: NDArray[np.float32], encoding: int = 0) -> None: ...
