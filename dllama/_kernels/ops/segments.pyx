"""Sums over the columns of several matrices that are added segment by segment.

The products of a segment are added to each other, one matrix after another. Then the segments are
added, as in dllama.graph.sum_tree. So the result has the same bits for any number of nodes that hold
whole segments.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove, memset

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.matmul cimport (
    ADD, STORE, Matmul, Order, dl_tile, matmul_job, point, sum_in_order, tile_rows,
)
from dllama._kernels.packed cimport PackedMatrix


cdef void add_products(const Matmul *m, const dl_segment *leaves, int segments,
                       const float *factors, int64_t T, int64_t panel, float *sums) noexcept nogil:
    cdef int64_t t = 0, n, at
    cdef dl_tile tile
    tile.w = m.w + panel * m.stride
    tile.order, tile.segments, tile.out_stride = leaves, segments, 16
    while t < T:
        n = tile_rows(m, T - t)
        point(m, &tile, t, n)
        tile.factors = factors + t
        for at in range(n):
            tile.out[at] = sums + (t + at) * segments * 16
        m.tiles.run(&tile, <int> n)
        t += n


cdef void put_sums(const dl_segment *order, int segments, float *sums, bint add, float *dst,
                   int64_t dst_stride, int64_t valid) noexcept nogil:
    cdef float *top = sums
    cdef int64_t s, adds
    for s in range(segments):
        memmove(top, sums + s * 16, 16 * sizeof(float))
        for adds in range(order[s].adds):
            _add(top - 16, top, 16)
            top -= 16
        top += 16
    for s in range((top - sums) // 16):
        if add:
            _add(dst, sums + s * 16, valid)
        else:
            memcpy(dst, sums + s * 16, valid * sizeof(float))
        dst += dst_stride


cdef inline void _add(float *y, const float *x, int64_t n) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        y[j] += x[j]


cdef Order order_of(sums):
    return Order([(one.columns, one.adds) for one in sums])


cdef Order leaves_of(sums):
    return Order([(one.columns, 0) for one in sums])


cdef struct PairSum:
    Matmul first, second
    const dl_segment *first_leaves
    const dl_segment *second_leaves
    const dl_segment *order
    int segments
    bint add
    const float *ones               # [T]
    float *dst                      # [sums][T][dim]
    int64_t dim, dst_stride


cdef int64_t pair_items(const Pass *run, const void *op) noexcept nogil:
    return ((<const PairSum *> op).dim + 15) // 16


cdef int pair_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """Columns 16 i to 16 i + 15 of the result, for all rows."""
    cdef const PairSum *p = <const PairSum *> op
    cdef int64_t T = run.batch.rows, width = p.segments * 16, t
    memset(scratch, 0, T * width * sizeof(float))
    add_products(&p.first, p.first_leaves, p.segments, p.ones, T, i, scratch)
    add_products(&p.second, p.second_leaves, p.segments, p.ones, T, i, scratch)
    for t in range(T):
        put_sums(p.order, p.segments, scratch + t * width, p.add, p.dst + t * p.dim + i * 16,
                 p.dst_stride, min(16, p.dim - i * 16))
    return 0


cdef class PairSumOp(Op):
    """dst = a matrix times src, and another one times another buffer (task.second), added."""

    cdef PairSum op
    cdef PackedMatrix first, second
    cdef Order order, first_leaves, second_order, second_leaves
    cdef float[::1] ones

    def __init__(self, Bindings b, task):
        cdef PairSum *p = &self.op
        other = task.second
        self.first, self.second = b.matrices[task.weight], b.matrices[other.weight]
        self.order, self.first_leaves = order_of(task.sums), leaves_of(task.sums)
        self.second_order, self.second_leaves = order_of(other.sums), leaves_of(other.sums)
        p.first = matmul_job(self.first, b.rows(task.src), STORE, b.threads)
        p.second = matmul_job(self.second, b.rows(other.src), STORE, b.threads)
        sum_in_order(&p.first, self.order)
        sum_in_order(&p.second, self.second_order)
        if self.order.count != self.second_order.count:
            raise ValueError(f"{task.weight} and {other.weight} have other segments")
        p.first_leaves, p.second_leaves = self.first_leaves.segments(), self.second_leaves.segments()
        p.order, p.segments = self.order.segments(), self.order.count
        self.ones = np.ones(b.max_rows, np.float32)
        p.ones, p.add = &self.ones[0], task.then == ADD
        p.dst, p.dim = b.floats(task.dst), b.rows(task.dst).k
        p.dst_stride = b.max_rows * p.dim
        self.scratch = b.max_rows * p.segments * 16
        self.stage(pair_items, pair_item, p)
