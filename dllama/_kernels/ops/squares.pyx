"""Sums of the squares of what a matrix reads, for calibration.

D: columns of a row.
"""

from libc.stdint cimport int64_t

from dllama._kernels.op cimport Bindings, Op, Pass, rows_of

# Columns that one item adds up.
cdef enum:
    CUT = 64


cdef struct SquaresOp_:
    bint tail                       # src has only the wanted rows
    int64_t width                   # D
    int64_t repeat                  # rows of src for each row of the task
    const float *src                # [rows * repeat][D]
    float *sum                      # [D], added to in every pass


cdef int64_t squares_items(const Pass *run, const void *op) noexcept nogil:
    return ((<const SquaresOp_ *> op).width + CUT - 1) // CUT


cdef int squares_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const SquaresOp_ *r = <const SquaresOp_ *> op
    cdef int64_t T = rows_of(run, r.tail) * r.repeat, n = min(CUT, r.width - i * CUT), t, j
    cdef const float *x
    cdef double total[CUT]
    for j in range(n):
        total[j] = 0
    for t in range(T):
        x = r.src + t * r.width + i * CUT
        for j in range(n):
            total[j] += <double> x[j] * x[j]
    for j in range(n):
        r.sum[i * CUT + j] += <float> (total[j] / r.repeat)
    return 0


cdef class SquaresOp(Op):
    """The vector task.weight += the sum of src squared over all rows of the batch.

    Where src has several rows for each of them, the mean of their squares is added.
    """

    cdef SquaresOp_ op

    def __init__(self, Bindings b, task):
        self.op.tail, self.op.src = task.tail, b.floats(task.src)
        self.op.width = b.rows(task.src).k
        self.op.repeat = b.buffers[task.src].count // b.max_rows
        self.op.sum = <float *> b.vector(task.weight, self.op.width)
        self.stage(squares_items, squares_item, &self.op)
