"""Ops on a row at a time: embedding lookup, norm, encoding, activation, scaling, sigmoid, biases, caps.

T: rows of the task. D: columns of a row.
"""

from libc.stdint cimport int64_t, uint8_t

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass, row_of, rows_of
from dllama._kernels.ops.elementwise cimport (
    Activation, activate, dl_floats, dl_isa, dl_rows, float_kernels, put_blocks, put_row,
)
from dllama._kernels.weight_types cimport dl_quants, dl_quants_of

from dllama._kernels.tasks import Then

# Fewest blocks of 32 in a piece of a row.
cdef enum:
    CUT_BLOCKS = 8


cdef struct RowOp:
    bint tail                       # works only on the wanted rows, and writes from row 0 on
    int64_t width                   # D
    const float *src                # [rows of the batch][D]
    const dl_rows *dst              # [T][D], as a matmul reads them
    float *sum                      # norm with ADD, add: [T][D], added to; embed, scale, sigmoid, softcap: written
    const float *weight             # norm, add: [D]
    const float *bias               # norm: [D], or NULL
    bint centred                    # norm: LayerNorm, else RMSNorm
    const uint8_t *stored           # embed: [vocab][stored_bytes], D numbers each
    int64_t stored_bytes
    int stored_type
    const dl_quants *codec
    float epsilon                   # norm
    float scale                     # scale: the factor; softcap: the cap
    Activation act                  # activate


cdef int64_t row_items(const Pass *run, const void *op) noexcept nogil:
    return rows_of(run, (<const RowOp *> op).tail)


cdef int64_t cut_items(const Pass *run, const void *op) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t T = rows_of(run, r.tail)
    return T * _cuts(run, r, T)


cdef inline int64_t _cuts(const Pass *run, const RowOp *r, int64_t T) noexcept nogil:
    """Items for each row: one, or up to one for each thread if rows are fewer than threads."""
    if T >= run.threads:
        return 1
    return max(1, min(run.threads, r.width // (32 * CUT_BLOCKS)))


cdef inline const float *_row(const Pass *run, const RowOp *r, int64_t t) noexcept nogil:
    return r.src + row_of(run, r.tail, t) * r.width


cdef inline void _put_cut(const Pass *run, const RowOp *r, int64_t i, const float *x) noexcept nogil:
    """Put the columns of item i, of a row x[D], into dst."""
    cdef int64_t T = rows_of(run, r.tail), blocks = (r.width + 31) // 32
    cdef int64_t cuts = _cuts(run, r, T), cut = i % cuts
    cdef int64_t first = blocks * cut // cuts, end = blocks * (cut + 1) // cuts
    put_blocks(run.floats, r.dst, T, i // cuts, first, end - first, x + 32 * first)


cdef inline void _norm_of(const dl_floats *f, const RowOp *r, const float *x, float *y) noexcept nogil:
    """y[D] = the norm of x[D]."""
    if r.centred:
        f.layernorm(x, r.weight, r.bias, r.epsilon, r.width, y)
    else:
        f.rmsnorm(x, r.weight, r.epsilon, r.width, y)


cdef inline void _norm(const Pass *run, const RowOp *r, int64_t t, float *y) noexcept nogil:
    """y[D] = the norm of row t."""
    _norm_of(run.floats, r, _row(run, r, t), y)


cdef int norm_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t T = rows_of(run, r.tail)
    _norm(run, r, i // _cuts(run, r, T), scratch)
    _put_cut(run, r, i, scratch)
    return 0


cdef int norm_add_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t j
    _norm(run, r, t, scratch)
    for j in range(r.width):
        r.sum[t * r.width + j] += scratch[j]
    return 0


cdef class NormOp(Op):
    """dst = RMSNorm of src, or LayerNorm if task.centred; Then.ADD: dst += it."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.tail, self.op.src = task.tail, b.floats(task.src)
        self.op.width, self.op.epsilon = b.rows(task.src).k, task.epsilon
        self.op.weight = b.vector(task.weight, self.op.width)
        self.op.centred, self.op.bias = task.centred, b.vector(task.bias, self.op.width)
        self.scratch = self.op.width + 16
        if task.then == Then.ADD:
            self.op.sum = b.floats(task.dst)
            self.stage(row_items, norm_add_item, &self.op)
        else:
            self.op.dst = b.rows(task.dst)
            self.stage(cut_items, norm_item, &self.op)

    def of_rows(self, const int64_t[::1] rows):
        """Norms of rows of src as they are now: float32 (len(rows), D). The rows must exist."""
        cdef int64_t n = rows.shape[0], i
        norms = np.empty((n, self.op.width), np.float32)
        cdef float[:, ::1] out = norms
        for i in range(n):
            _norm_of(float_kernels(), &self.op, self.op.src + rows[i] * self.op.width, &out[i, 0])
        return norms


cdef int encode_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t T = rows_of(run, r.tail)
    _put_cut(run, r, i, _row(run, r, i // _cuts(run, r, T)))
    return 0


cdef class EncodeOp(Op):
    """dst = src quantised to Q80 blocks."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.tail, self.op.src, self.op.dst = task.tail, b.floats(task.src), b.rows(task.dst)
        self.op.width = self.op.dst.k
        self.stage(cut_items, encode_item, &self.op)


cdef int activate_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t D = r.dst.k
    cdef const float *gate = r.src + t * r.width
    activate(run.floats, &r.act, gate, gate + r.width // 2, D, scratch)
    put_row(run.floats, r.dst, run.batch.rows, t, scratch)
    return 0


cdef class ActivateOp(Op):
    """dst = the activation of src, whose columns are gate, then up; Then.SILU, GELU: one of both."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.src, self.op.dst = b.floats(task.src), b.rows(task.dst)
        self.op.width = b.rows(task.src).k
        self.op.act.then, self.op.act.limit = task.then, task.scale
        if self.op.width < self.op.dst.k * (1 if task.then in (Then.SILU, Then.GELU) else 2):
            raise ValueError(f"{task.src} has {self.op.width} columns, {task.dst} {self.op.dst.k}")
        self.scratch = self.op.dst.k + 32
        self.stage(row_items, activate_item, &self.op)


cdef int embed_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    r.codec.decode(r.stored + run.batch.ids[t] * r.stored_bytes, r.stored_type, r.width,
                   r.sum + t * r.width)
    return 0


cdef class EmbedOp(Op):
    """dst = the row of the token of each row in an embedding, which task.weight names."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        embedding = b.embeddings[task.weight]
        cdef const uint8_t[:, ::1] table = embedding.rows
        self.op.stored, self.op.stored_bytes = &table[0, 0], table.shape[1]
        self.op.stored_type, self.op.width = embedding.weight_type, embedding.cols
        self.op.codec, self.op.sum = dl_quants_of(dl_isa()), b.floats(task.dst)
        self.stage(row_items, embed_item, &self.op)


cdef int scale_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t j
    for j in range(t * r.width, (t + 1) * r.width):
        r.sum[j] = r.src[j] * r.scale
    return 0


cdef class ScaleOp(Op):
    """dst = src times task.scale, or times the only number of the weight, if there is one."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.tail = task.tail
        self.op.scale = b.vector(task.weight, 1)[0] if task.weight else task.scale
        self.op.src, self.op.sum = b.floats(task.src), b.floats(task.dst)
        self.op.width = b.rows(task.src).k
        self.stage(row_items, scale_item, &self.op)


cdef int sigmoid_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef float *y = r.sum + t * r.width
    cdef int64_t j
    for j in range(r.width):
        y[j] = -r.src[t * r.width + j]
    run.floats.exp_row(y, r.width, y)
    for j in range(r.width):
        y[j] = 1 / (1 + y[j])
    return 0


cdef class SigmoidOp(Op):
    """dst = sigmoid(src)."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.tail = task.tail
        self.op.src, self.op.sum = b.floats(task.src), b.floats(task.dst)
        self.op.width = b.rows(task.src).k
        self.stage(row_items, sigmoid_item, &self.op)


cdef int add_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t j
    for j in range(r.width):
        r.sum[t * r.width + j] += r.weight[j]
    return 0


cdef class AddOp(Op):
    """dst += a vector."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.sum, self.op.width = b.floats(task.dst), b.rows(task.dst).k
        self.op.weight = b.vector(task.weight, self.op.width)
        self.stage(row_items, add_item, &self.op)


cdef int softcap_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const RowOp *r = <const RowOp *> op
    cdef int64_t cuts = _cuts(run, r, rows_of(run, r.tail)), blocks = (r.width + 31) // 32
    cdef int64_t first = 32 * (blocks * (i % cuts) // cuts), at = i // cuts * r.width + first
    cdef int64_t end = min(r.width, 32 * (blocks * (i % cuts + 1) // cuts))
    run.floats.softcap(r.src + at, end - first, r.scale, r.sum + at)
    return 0


cdef class SoftcapOp(Op):
    """dst = cap * tanh(src / cap) with task.cap."""

    cdef RowOp op

    def __init__(self, Bindings b, task):
        self.op.tail, self.op.scale = task.tail, task.cap
        self.op.src, self.op.sum = b.floats(task.src), b.floats(task.dst)
        self.op.width = b.rows(task.src).k
        self.stage(cut_items, softcap_item, &self.op)
