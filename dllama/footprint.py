"""The memory a model takes, without loading it."""

from __future__ import annotations

import numpy as np

from dllama._kernels.link import Link
from dllama._kernels.matmul import PackedMatrix
from dllama.modelfile import ModelFile
from dllama.node import Node, group_of, program_of
from dllama.plan import Plan
from dllama.weights import Weights, float_type_of


def footprint(model: ModelFile, plan: Plan, *, threads: int, rank: int = 0) -> dict[str, int]:
    """Bytes of weights, kv_cache and buffers of a node, as it has them after loading.

    The node is built on matrices that are never filled, one for each size, so that pages of
    none of them are touched, and on links that lead nowhere.
    """
    program = program_of(model.spec, plan, rank, model.path)
    shapes = {m.name: (m.rows, m.cols, float_type_of(model.tensors, m)) for m in program.matrices}
    packed = {shape: PackedMatrix(*shape) for shape in set(shapes.values())}
    matrices = {name: packed[shape] for name, shape in shapes.items()}
    vectors = {
        vector.name: np.zeros(sum(len(part.rows) for part in vector.slices), np.float32)
        for vector in program.vectors
    }
    weights = Weights(matrices, vectors, model.f32("embedding"))
    group = None
    if plan.world > 1:
        links = [None if other == rank else Link() for other in range(plan.world)]
        group = group_of(program, plan, links, rank, {})
    return Node(program, weights, plan, threads, group).memory()
