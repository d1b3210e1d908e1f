"""Per-layer inputs (dllama.graph.layer_inputs): what they are made of, and what they multiply.

T: rows of the batch. L: layers. D: numbers of an input.
"""

from libc.stdint cimport int64_t

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport (
    Activation, activate, dl_floats, dl_rows, float_kernels, put_row,
)

cdef float HALF_ROOT = 0.70710678118654752  # 1 / sqrt(2)


cdef struct LayerInputs:
    const float *projection         # [T][L * D]
    float *inputs                   # [T][L * D]: embeddings, which become inputs
    int64_t layers, size            # L, D
    const float *weight             # [D]
    float epsilon, scale


cdef inline void _make_input(const dl_floats *f, const LayerInputs *l, int64_t at,
                             float *scratch) noexcept nogil:
    """Input at of all rows and layers. scratch: [D]."""
    cdef float *x = l.inputs + at * l.size
    cdef int64_t j
    f.rmsnorm(l.projection + at * l.size, l.weight, l.epsilon, l.size, scratch)
    for j in range(l.size):
        x[j] = (scratch[j] + x[j] * l.scale) * HALF_ROOT


cdef int64_t layer_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const LayerInputs *> op).layers


cdef int layer_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    _make_input(run.floats, <const LayerInputs *> op, i, scratch)
    return 0


cdef class LayerInputsOp(Op):
    """dst = (RMSNorm of each run of src + dst * task.scale) / sqrt(2). A run is as long as the weights
    of the norm.
    """

    cdef LayerInputs op

    def __init__(self, Bindings b, task):
        cdef LayerInputs *l = &self.op
        l.size = b.vectors[task.weight].shape[0]
        l.layers = b.rows(task.src).k // l.size
        if not b.rows(task.src).k == b.rows(task.dst).k == l.layers * l.size:
            raise ValueError(f"{task.src} and {task.dst} are not whole runs of {l.size} columns")
        l.projection, l.inputs = b.floats(task.src), b.floats(task.dst)
        l.weight = b.vector(task.weight, l.size)
        l.epsilon, l.scale = task.epsilon, task.scale
        self.scratch = l.size + 16
        self.stage(layer_items, layer_item, l)


cdef struct LayerGate:
    const float *gate               # [T][D]
    const float *inputs             # [T][ld], from the first column on
    int64_t ld
    const dl_rows *dst              # [T][D]
    Activation act


cdef int64_t gate_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows


cdef int gate_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const LayerGate *g = <const LayerGate *> op
    cdef int64_t D = g.dst.k
    activate(run.floats, &g.act, g.gate + t * D, g.inputs + t * g.ld, D, scratch)
    put_row(run.floats, g.dst, run.batch.rows, t, scratch)
    return 0


cdef class LayerGateOp(Op):
    """dst = the activation of src times the columns of task.inputs from task.column on."""

    cdef LayerGate op

    def __init__(self, Bindings b, task):
        cdef LayerGate *g = &self.op
        g.gate, g.dst, g.act.then = b.floats(task.src), b.rows(task.dst), task.then
        g.inputs = b.floats(task.inputs) + <int64_t> task.column
        g.ld = b.rows(task.inputs).k
        if b.rows(task.src).k != g.dst.k or g.ld < task.column + g.dst.k:
            raise ValueError(f"{task.src}, {task.dst} and {task.inputs} do not fit together")
        self.scratch = g.dst.k + 32
        self.stage(gate_items, gate_item, g)


def layer_inputs(const float[:, ::1] projection, const float[:, ::1] embedding,
                 const float[::1] weight, float epsilon, float scale):
    """(RMSNorm of each run of D columns of a projection + embedding * scale) / sqrt(2).

    Args:
        projection: float32 (T, L * D).
        embedding: float32 (T, L * D).
        weight: of the norm, float32 (D,).
        epsilon: of the norm.
        scale: of the embedding.

    Returns:
        float32 (T, L * D).

    Raises:
        ValueError: the shapes do not fit.
    """
    cdef LayerInputs l
    cdef int64_t i
    out = np.array(embedding)
    cdef float[:, ::1] y = out
    l.size, l.epsilon, l.scale = weight.shape[0], epsilon, scale
    if not l.size or projection.shape[1] % l.size or projection.shape[0] != y.shape[0] \
            or projection.shape[1] != y.shape[1]:
        raise ValueError("shapes of projection, embedding and weight do not fit")
    if not out.size:
        return out
    l.layers = projection.shape[1] // l.size
    l.projection, l.inputs, l.weight = &projection[0, 0], &y[0, 0], &weight[0]
    cdef float[::1] scratch = np.empty(l.size + 16, np.float32)
    for i in range(projection.shape[0] * l.layers):
        _make_input(float_kernels(), &l, i, &scratch[0])
    return out
