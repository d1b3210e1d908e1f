import numpy as np
from numpy.typing import NDArray

from dllama._kernels.matmul import PackedMatrix
from dllama.program import Program

class Executor:
    max_batch: int
    max_logits: int
    seq_len: int
    vocab_size: int
    threads: int
    def __init__(
        self,
        program: Program,
        matrices: dict[str, PackedMatrix],
        vectors: dict[str, NDArray[np.float32]],
        embedding: NDArray[np.float32],
        *,
        threads: int,
        max_batch: int,
        max_logits: int,
        seq_len: int,
        half: bool,
    ) -> None: ...
    def run(
        self, ids: NDArray[np.int32], position: int, first_logits: int
    ) -> NDArray[np.float32]: ...
    def milliseconds(self) -> NDArray[np.float64]: ...
    def memory(self) -> dict[str, int]: ...
