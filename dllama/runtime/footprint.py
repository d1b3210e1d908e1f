"""The memory that a model takes, without loading it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.link import Link
from dllama._kernels.packed import PackedMatrix
from dllama.graph import weights
from dllama.graph.graph import Matrix, TensorSlice
from dllama.model.stored_model import StoredModel
from dllama.model.weight_types import WeightType
from dllama.run_config import RunConfig
from dllama.runtime.node import Node, communicator_of, graph_of


class NothingRead:
    """A source of weights that gives no rows.

    Matrices of one size share room, so that a large model does not reserve all of its memory.
    """

    def __init__(self, model: StoredModel) -> None:
        self.embeddings = weights.embeddings_of(model)
        self.name = model.path
        self._rooms: dict[tuple[int, int, WeightType, int], PackedMatrix] = {}
        self.title = weights.title

    def rooms(self, matrices: Sequence[Matrix]) -> dict[str, PackedMatrix]:
        """Return the room that all matrices of a size share; no page of it is touched."""
        return {matrix.name: self._room(matrix) for matrix in matrices}

    def _room(self, matrix: Matrix) -> PackedMatrix:
        key = (matrix.rows, matrix.cols, matrix.weight_type, matrix.skip)
        if key not in self._rooms:
            self._rooms[key] = weights.rooms([matrix])[matrix.name]
        return self._rooms[key]

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """Yield no rows."""
        yield from ()


def footprint(
    model: StoredModel, config: RunConfig, *, threads: int, rank: int = 0
) -> dict[str, int]:
    """Return the memory that a node takes once it is loaded.

    It builds the node on weights that are never read and on links that lead nowhere.

    Args:
        model: the open model.
        config: what all nodes agree on.
        threads: of the node.
        rank: of the node.

    Returns:
        Bytes of weights, kv_cache and buffers.
    """
    graph = graph_of(model.spec, config, rank, model.path)
    unread = weights.load(graph, NothingRead(model))
    communicator = None
    if config.world_size > 1:
        links = [None if other == rank else Link() for other in range(config.world_size)]
        communicator = communicator_of(graph, config, links, rank, {})
    return Node(graph, unread, config, threads, communicator).memory()
