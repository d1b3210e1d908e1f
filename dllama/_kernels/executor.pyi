from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.packed import PackedMatrix
from dllama._kernels.weight_types import StoredRows

class Executor:
    max_rows: int
    max_logits: int
    max_positions: int
    sequences: int
    vocab_size: int
    local_vocab: int
    table_size: int
    threads: int
    began: int
    def __init__(
        self,
        graph: object,
        matrices: dict[str, PackedMatrix],
        vectors: dict[str, NDArray[np.float32]],
        embeddings: dict[str, StoredRows],
        *,
        threads: int,
        max_rows: int,
        max_logits: int,
        max_positions: int,
        kv_type: int,
        kv_blocks: Sequence[int],
        sequences: int = 1,
        lag: int = 0,
        communicator: Communicator | None = None,
        halves: bool = False,
    ) -> None: ...
    def run(
        self,
        ids: NDArray[np.int32],
        spans: Sequence[tuple[int, int, Sequence[Sequence[int]], bool, int, int]],
        wanted: Sequence[int],
        copies: Sequence[tuple[int, int, int]] = (),
        encoding: int = 0,
    ) -> NDArray[np.float32]: ...
    def states(self, rows: Sequence[int]) -> NDArray[np.float32]: ...
    def tasks(self) -> list[tuple[Any, int | None]]: ...
    def transfers(self) -> NDArray[np.bool_]: ...
    def milliseconds(self) -> NDArray[np.float64]: ...
    def memory(self) -> dict[str, int]: ...
