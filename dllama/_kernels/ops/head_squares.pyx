"""Sums of the squares of each head of q and k, for a norm over all heads.

T: rows of the batch. Each sum is in an order of its own, so it has the same bits on every node that
has the head.
"""

from libc.stdint cimport int64_t

from dllama._kernels.op cimport Bindings, Op, Pass

# Sums that run beside each other.
cdef enum:
    LANES = 8


cdef struct HeadSquares:
    const float *qkv                # [T][ld]: queries, keys, values, head by head
    int64_t ld, size
    int64_t count, kv_count         # heads of this node
    int64_t q_column, k_column      # columns of dst for the first of them
    float *dst                      # [T][dst_ld]
    int64_t dst_ld


cdef int64_t squares_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows


cdef int squares_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const HeadSquares *s = <const HeadSquares *> op
    cdef const float *x = s.qkv + t * s.ld
    cdef float *dst = s.dst + t * s.dst_ld
    cdef int64_t h
    for h in range(s.count):
        dst[s.q_column + h] = _sum(x + h * s.size, s.size)
    for h in range(s.kv_count):
        dst[s.k_column + h] = _sum(x + (s.count + h) * s.size, s.size)
    return 0


cdef inline float _sum(const float *x, int64_t n) noexcept nogil:
    cdef float lanes[LANES]
    cdef float total = 0
    cdef int64_t i, j
    for j in range(LANES):
        lanes[j] = 0
    for i in range(n):
        lanes[i % LANES] += x[i] * x[i]
    for j in range(LANES):
        total += lanes[j]
    return total


cdef class HeadSquaresOp(Op):
    """Columns of dst = sums of the squares of this node's heads of q and k; src: q, k and v.

    dst has a column for each query head of the model, then one for each KV head.
    """

    cdef HeadSquares op

    def __init__(self, Bindings b, task):
        cdef HeadSquares *s = &self.op
        heads = task.heads
        s.qkv, s.ld, s.size = b.floats(task.src), b.rows(task.src).k, heads.size
        s.count, s.kv_count = heads.count, heads.kv_count
        s.q_column, s.k_column = heads.first, heads.all + heads.first_kv
        s.dst, s.dst_ld = b.floats(task.dst), b.rows(task.dst).k
        if s.k_column + s.kv_count > s.dst_ld:
            raise ValueError(f"{task.dst} has {s.dst_ld} columns, expected one for each head")
        self.stage(squares_items, squares_item, s)
