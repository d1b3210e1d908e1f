"""The memory a model takes, without loading it."""

from __future__ import annotations

import numpy as np

from dllama._kernels.comm.link import Link
from dllama._kernels.ops.matmul import PackedMatrix
from dllama.graph.weights import Weights, weight_type_of
from dllama.model.file import ModelFile
from dllama.run_config import RunConfig
from dllama.runtime.node import Node, communicator_of, graph_of


def footprint(
    model: ModelFile, config: RunConfig, *, threads: int, rank: int = 0
) -> dict[str, int]:
    """Bytes of weights, kv_cache and buffers of a node, as it has them after loading.

    The node is built on matrices that are never filled, one for each size, so that pages of
    none of them are touched, and on links that lead nowhere.
    """
    graph = graph_of(model.spec, config, rank, model.path)
    shapes = {m.name: (m.rows, m.cols, weight_type_of(model.tensors, m)) for m in graph.matrices}
    packed = {shape: PackedMatrix(*shape) for shape in set(shapes.values())}
    matrices = {name: packed[shape] for name, shape in shapes.items()}
    vectors = {
        vector.name: np.zeros(sum(len(part.rows) for part in vector.slices), np.float32)
        for vector in graph.vectors
    }
    weights = Weights(matrices, vectors, model.f32("embedding"))
    communicator = None
    if config.world > 1:
        links = [None if other == rank else Link() for other in range(config.world)]
        communicator = communicator_of(graph, config, links, rank, {})
    return Node(graph, weights, config, threads, communicator).memory()
