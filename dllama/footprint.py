"""The memory a model takes, without loading it."""

from __future__ import annotations

import numpy as np

from dllama import families
from dllama._kernels.executor import Executor
from dllama._kernels.matmul import PackedMatrix
from dllama.engine import MAX_LOGITS
from dllama.modelfile import ModelFile
from dllama.settings import DEFAULT_BATCH
from dllama.sharding import whole


def footprint(model: ModelFile, *, threads: int, seq_len: int, half: bool) -> dict[str, int]:
    """Bytes of weights, kv_cache and buffers, as LLM.memory() gives them after loading.

    The executor is built on matrices that are never filled, one for each size, so that
    pages of none of them are touched.
    """
    spec = model.spec
    program = families.of_arch(spec.arch, model.path).build(spec, whole(spec))
    batch = min(DEFAULT_BATCH, seq_len)
    shapes = {(matrix.rows, matrix.cols) for matrix in program.matrices}
    packed = {shape: PackedMatrix(*shape, int(spec.weight_type)) for shape in shapes}
    matrices = {matrix.name: packed[matrix.rows, matrix.cols] for matrix in program.matrices}
    vectors = {name: np.zeros(model.tensors[name].shape, np.float32) for name in program.vectors}
    executor = Executor(
        program,
        matrices,
        vectors,
        model.f32("embedding"),
        threads=threads,
        max_batch=batch,
        max_logits=max(1, min(batch, MAX_LOGITS // spec.vocab_size)),
        seq_len=seq_len,
        half=half,
    )
    weights = sum(matrix.nbytes for matrix in matrices.values())
    weights += sum(vector.nbytes for vector in vectors.values())
    return {"weights": weights, **executor.memory()}
