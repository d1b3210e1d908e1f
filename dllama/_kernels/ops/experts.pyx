"""Ops of mixtures of experts: routing, and products with the matrices of the chosen experts.

T: rows of the batch. N: entries, one for each row and each expert that it takes (moe.pxd).
"""

from libc.stdint cimport int64_t

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass, one_item
from dllama._kernels.ops.elementwise cimport Activation, dl_rows
from dllama._kernels.ops.matmul cimport GATED, Order
from dllama._kernels.packed cimport PackedMatrix
from dllama._kernels.ops.moe cimport (
    Experts, ExpertsSum, Routes, Routing, activate_item, add_biases, dispatch_item, gated_item,
    gated_items, gated_job, route_item, sort_item, sum_experts, sum_item, sum_items,
    sum_panels, sum_scratch, sum_shared,
)
from dllama._kernels.ops.segments cimport leaves_of, order_of


cdef struct ExpertsTask:
    const Routing *routing
    const float *src                # route and dispatch: [T][width]; activate: [N][width]
    int64_t width
    const dl_rows *rows             # dispatch: [N][width]; activate: [N][hidden]
    const float *correction         # route: [experts], or NULL
    const float *scales             # route: [experts], or NULL
    Experts experts                 # gated
    ExpertsSum sum                  # sum
    Activation act                  # activate
    const float *bias               # add: [experts][width]
    float *dst                      # add: [T][width]


cdef int64_t route_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows


cdef int route_row(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const ExpertsTask *task = <const ExpertsTask *> op
    route_item(task.routing, run.floats, task.src + t * task.width, task.correction, task.scales, t,
               scratch)
    return 0


cdef int sort_entries(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    sort_item((<const ExpertsTask *> op).routing, run.batch.rows)
    return 0


cdef class ExpertsOp(Op):
    """What these ops share: a struct, and the routes that it points to."""

    cdef ExpertsTask op
    cdef Routes routes

    cdef int follow(self, Bindings b, str routes) except -1:
        """Keep the routes of a buffer."""
        self.routes = b.buffers[routes]
        self.op.routing = &self.routes.view
        return 0

    cdef int read(self, Bindings b, task) except -1:
        """Point to the floats of src and the rows of dst."""
        self.op.src, self.op.width = b.floats(task.src), b.rows(task.src).k
        self.op.rows = b.rows(task.dst)
        return 0


cdef class RouteOp(ExpertsOp):
    """dst = the experts of each row and their weights, from the router's scores in src.

    The weight of the task is added for the choice. task.scales multiply the weights.
    """

    def __init__(self, Bindings b, task):
        self.follow(b, task.dst)
        self.op.src, self.op.width = b.floats(task.src), self.op.routing.experts
        self.op.correction = b.vector(task.weight, self.op.width)
        self.op.scales = b.vector(task.scales, self.op.width)
        self.scratch = 3 * self.op.width
        self.stage(route_items, route_row, &self.op)
        self.stage(one_item, sort_entries, &self.op)


cdef int64_t dispatch_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const ExpertsTask *> op).routing.taken


cdef int dispatch_entry(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const ExpertsTask *task = <const ExpertsTask *> op
    dispatch_item(task.routing, run.floats, task.src, task.width, task.rows, i)
    return 0


cdef class DispatchOp(ExpertsOp):
    """dst = the row of src of each entry, as a matmul reads it."""

    def __init__(self, Bindings b, task):
        self.follow(b, task.routes)
        self.read(b, task)
        self.stage(dispatch_items, dispatch_entry, &self.op)


cdef int64_t experts_gated_items(const Pass *run, const void *op) noexcept nogil:
    return gated_items(&(<const ExpertsTask *> op).experts)


cdef int experts_gated_item(const Pass *run, const void *op, int64_t i,
                            float *scratch) noexcept nogil:
    gated_item(&(<const ExpertsTask *> op).experts, i)
    return 0


cdef class ExpertsGatedOp(ExpertsOp):
    """dst = activation of gate and up of each entry's expert times the entry in src.

    With Then.STORE, the product with gate or up alone, as columns of dst.
    """

    cdef PackedMatrix matrix

    def __init__(self, Bindings b, task):
        self.follow(b, task.routes)
        self.matrix = b.matrices[task.weight]
        self.op.experts = gated_job(self.routes, self.matrix, b.rows(task.src), b.rows(task.dst),
                                    task.then, b.threads)
        if task.then < GATED:
            self._store(b, task)
        self.stage(experts_gated_items, experts_gated_item, &self.op)

    cdef int _store(self, Bindings b, task) except -1:
        cdef Experts *x = &self.op.experts
        x.dst, x.job.ld = b.floats(task.dst) + <int64_t> task.column, b.rows(task.dst).k
        if task.column + x.job.rows > x.job.ld:
            raise ValueError(f"{task.dst} has {x.job.ld} columns, {task.weight} {x.job.rows} rows")
        x.job.bias = b.vector(task.bias, self.matrix.rows)
        return 0


cdef int activate_entry(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const ExpertsTask *task = <const ExpertsTask *> op
    activate_item(task.routing, run.floats, task.src, task.width, &task.act, task.rows, i, scratch)
    return 0


cdef class ExpertsActivateOp(ExpertsOp):
    """dst = the activation of src, whose columns are gate, then up."""

    def __init__(self, Bindings b, task):
        self.follow(b, task.routes)
        self.read(b, task)
        self.op.act.then, self.op.act.limit = task.then, task.scale
        self.scratch = self.op.rows.k + 32
        if self.op.width < 2 * self.op.rows.k:
            raise ValueError(f"{task.src} has {self.op.width} columns, {task.dst} {self.op.rows.k}")
        self.stage(dispatch_items, activate_entry, &self.op)


cdef int64_t experts_sum_items(const Pass *run, const void *op) noexcept nogil:
    return sum_items(&(<const ExpertsTask *> op).sum, run.batch.rows)


cdef int experts_sum_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    sum_item(&(<const ExpertsTask *> op).sum, run.batch.rows, i, scratch)
    return 0


cdef class ExpertsSumOp(ExpertsOp):
    """dst = for each row of the batch, the weighted sum of down times src over its entries.

    To that the product with the shared expert is added. A task has both, or either.
    """

    cdef PackedMatrix matrix, shared_matrix
    cdef object factors
    cdef list orders

    def __init__(self, Bindings b, task):
        cdef ExpertsSum *x = &self.op.sum
        self.orders = []
        if task.weight:
            self.follow(b, task.routes)
            self.matrix = b.matrices[task.weight]
            sum_experts(x, self.routes, self.matrix, b.rows(task.src), self._order(task.sums),
                        self._leaves(task.sums), b.threads)
        if task.shared is not None:
            self._share(b, task.shared)
        x.then, x.dst, x.dim = task.then, b.floats(task.dst), b.rows(task.dst).k
        x.dst_stride = b.max_rows * x.dim
        x.panels = sum_panels(x, b.threads)
        self.scratch = sum_scratch(x, b.max_rows)
        self.stage(experts_sum_items, experts_sum_item, &self.op)

    cdef int _share(self, Bindings b, shared) except -1:
        """Add the shared expert, times the factors of a buffer or 1."""
        cdef float[::1] ones
        cdef const float *factors
        if shared.factors:
            factors = b.floats(shared.factors)
        else:
            ones = self.factors = np.ones(b.max_rows, np.float32)
            factors = &ones[0]
        self.shared_matrix = b.matrices[shared.weight]
        sum_shared(&self.op.sum, self.shared_matrix, b.rows(shared.src), factors,
                   self._order(shared.sums), self._leaves(shared.sums), b.threads)
        return 0

    cdef Order _order(self, sums):
        """The order of a sum. It lives as long as the op."""
        return self._kept(order_of(sums))

    cdef Order _leaves(self, sums):
        """The segments of a sum without additions."""
        return self._kept(leaves_of(sums))

    cdef Order _kept(self, Order order):
        self.orders.append(order)
        return order

cdef int add_entry_biases(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const ExpertsTask *task = <const ExpertsTask *> op
    add_biases(task.routing, task.bias, task.width, t, task.dst + t * task.width)
    return 0


cdef class ExpertsAddOp(ExpertsOp):
    """dst += for each row, the weighted sum of its experts' biases."""

    def __init__(self, Bindings b, task):
        self.follow(b, task.routes)
        self.op.dst, self.op.width = b.floats(task.dst), b.rows(task.dst).k
        self.op.bias = b.vector(task.weight, self.op.routing.experts * self.op.width)
        self.stage(route_items, add_entry_biases, &self.op)
