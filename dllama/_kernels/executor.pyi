import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.ops.matmul import PackedMatrix
from dllama.graph.graph import Graph, Task

class Executor:
    max_batch: int
    max_logits: int
    seq_len: int
    contexts: int
    vocab_size: int
    local_vocab: int
    threads: int
    began: int
    def __init__(
        self,
        graph: Graph,
        matrices: dict[str, PackedMatrix],
        vectors: dict[str, NDArray[np.float32]],
        embedding: NDArray[np.float32] | None,
        *,
        threads: int,
        max_batch: int,
        max_logits: int,
        seq_len: int,
        half: bool,
        contexts: int = 1,
        communicator: Communicator | None = None,
    ) -> None: ...
    def use(self, context: int, source: int, positions: int) -> None: ...
    def run(
        self, ids: NDArray[np.int32], position: int, first_logits: int, form: int = 0
    ) -> NDArray[np.float32]: ...
    def tasks(self) -> list[Task]: ...
    def transfers(self) -> NDArray[np.bool_]: ...
    def milliseconds(self) -> NDArray[np.float64]: ...
    def memory(self) -> dict[str, int]: ...
