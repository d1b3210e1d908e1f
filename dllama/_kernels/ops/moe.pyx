"""Mixtures of experts (Shazeer et al. 2017; Fedus et al. 2022; Jiang et al. 2024, Mixtral).

A router scores E experts for each token; the softmax of the scores weighs the `taken` best. Rows,
one for each token and expert taken, are sorted by experts: an expert's weights are read once
per pass for all its tokens, and those of experts without tokens not at all.

The down projection is cut into lanes whose columns are packed apart. A row of the result is summed
over a token's experts in ascending order within each lane, then over the lanes as a binary
tree: so nodes that hold whole lanes add up to the same bits.
"""

from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport dl_floats_of, dl_isa, put_row
from dllama._kernels.ops.matmul cimport ADD, STORE, matmul_item, matmul_items, matmul_job


cdef class Routes:
    """Experts and weights of up to `tokens` tokens.

    normalised: the weights of a token's experts are scaled to a sum of 1.
    ValueError unless 1 <= taken <= experts.
    """

    def __cinit__(self, int64_t tokens, int64_t experts, int64_t taken, bint normalised):
        cdef int64_t N = tokens * taken
        cdef Routing *r = &self.view
        if not 1 <= taken <= experts:
            raise ValueError(f"{taken} of {experts} experts cannot be taken")
        self.memory = Memory(8 * (2 * experts + 2) + 4 * (5 * N + experts))
        r.experts, r.taken, r.normalised = experts, taken, normalised
        r.first = <int64_t *> self.memory.data
        r.cursor = r.first + experts + 1
        r.hits = r.cursor + experts
        r.chosen = <int32_t *> (r.hits + 1)
        r.tokens = r.chosen + N
        r.owners = r.tokens + N
        r.hit = r.owners + N
        r.weights = <float *> (r.hit + experts)
        r.factors = r.weights + N

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self.memory.nbytes


cdef void route_item(const Routing *r, const dl_floats *f, const float *scores, int64_t t,
                     float *scratch) noexcept nogil:
    """Choose the experts of token t, whose scores are scores[E]; of a tie the first."""
    cdef int32_t *chosen = r.chosen + t * r.taken
    cdef float *weights = r.weights + t * r.taken
    cdef float sum = _softmax(f, scores, r.experts, scratch)
    cdef int64_t s
    for s in range(r.taken):
        chosen[s] = _largest(scratch, r.experts)
        weights[s] = scratch[chosen[s]]
        scratch[chosen[s]] = -1
    if r.normalised:
        sum = 0
        for s in range(r.taken):
            sum += weights[s]
    for s in range(r.taken):
        weights[s] /= sum


cdef inline float _softmax(const dl_floats *f, const float *scores, int64_t n,
                           float *out) noexcept nogil:
    """out[n] = e^(score - largest score); their sum."""
    cdef float top = scores[0], sum = 0
    cdef int64_t e
    for e in range(1, n):
        top = scores[e] if scores[e] > top else top
    for e in range(n):
        out[e] = scores[e] - top
    f.exp_row(out, n, out)
    for e in range(n):
        sum += out[e]
    return sum


cdef inline int32_t _largest(const float *p, int64_t n) noexcept nogil:
    """The index of the largest, where -1 marks those that are taken; the first left if none is."""
    cdef int64_t e, best = -1
    for e in range(n):
        if p[e] != -1 and (best < 0 or p[e] > p[best]):
            best = e
    return <int32_t> best


cdef void sort_item(const Routing *r, int64_t T) noexcept nogil:
    """Sort rows by experts, within an expert by tokens."""
    cdef int64_t e, i, row, N = T * r.taken
    memset(r.first, 0, (r.experts + 1) * sizeof(int64_t))
    for i in range(N):
        r.first[r.chosen[i] + 1] += 1
    r.hits[0] = 0
    for e in range(r.experts):
        if r.first[e + 1]:
            r.hit[r.hits[0]] = <int32_t> e
            r.hits[0] += 1
        r.first[e + 1] += r.first[e]
    memcpy(r.cursor, r.first, r.experts * sizeof(int64_t))
    for i in range(N):
        e = r.chosen[i]
        row = r.cursor[e]
        r.cursor[e] += 1
        r.tokens[row], r.owners[row] = <int32_t> (i // r.taken), <int32_t> e
        r.factors[row] = r.weights[i]


cdef inline dl_rows _from_row(const dl_rows *rows, int64_t first) noexcept nogil:
    """The rows from `first` on, which is not within a tile of another expert's."""
    cdef dl_rows part = rows[0]
    cdef int64_t nb = rows.k // 32
    if rows.x != NULL:
        part.x = rows.x + first * rows.k
        return part
    part.q, part.d, part.s = rows.q + first * rows.k, rows.d + first * nb, rows.s + first * nb
    return part


cdef void dispatch_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        const dl_rows *dst, int64_t i) noexcept nogil:
    cdef int64_t expert = r.owners[i], first = r.first[expert]
    cdef dl_rows rows = _from_row(dst, first)
    put_row(f, &rows, r.first[expert + 1] - first, i - first, src + r.tokens[i] * width)


cdef Experts gated_job(Routes routes, PackedMatrix matrix, const dl_rows *src,
                       const dl_rows *hidden, int lanes, int then, int threads):
    """Gate and up of all experts: 64 rows of the matrix for each 32 hidden units."""
    cdef Experts x
    memset(&x, 0, sizeof(Experts))
    x.routing, x.lanes, x.src, x.hidden = &routes.view, lanes, src, hidden
    x.job = matmul_job(matrix, src, then, threads)
    x.job.rows = matrix.rows // (routes.view.experts * lanes)
    x.lane_bytes = x.job.rows // 16 * matrix.stride
    x.expert_bytes = lanes * x.lane_bytes
    return x


cdef int64_t gated_items(const Experts *x) noexcept nogil:
    return x.routing.hits[0] * x.lanes * matmul_items(&x.job)


cdef void gated_item(const Experts *x, int64_t T, int64_t i) noexcept nogil:
    """Some hidden units of one expert for all its tokens."""
    cdef int64_t pieces = matmul_items(&x.job), N = T * x.routing.taken
    cdef int64_t lane = i // pieces % x.lanes
    cdef int64_t expert = x.routing.hit[i // (pieces * x.lanes)]
    cdef int64_t first = x.routing.first[expert]
    cdef dl_rows src = _from_row(x.src, first)
    cdef dl_rows hidden = _from_row(x.hidden, lane * N + first)
    cdef Matmul m = x.job
    m.w += expert * x.expert_bytes + lane * x.lane_bytes
    m.src, m.gated = &src, &hidden
    matmul_item(&m, x.routing.first[expert + 1] - first, i % pieces)


cdef Experts sum_job(Routes routes, PackedMatrix matrix, const dl_rows *src, int lanes,
                     float *dst, int64_t dim, bint add, int threads):
    """Down projections of all experts, in the order of rows that program.py describes."""
    cdef Experts x
    memset(&x, 0, sizeof(Experts))
    x.routing, x.lanes, x.src = &routes.view, lanes, src
    x.dst, x.dim, x.add = dst, dim, add
    x.job = matmul_job(matrix, src, STORE, threads)
    x.job.rows, x.job.ld = EXPERT_ROWS, EXPERT_ROWS
    x.lane_bytes = EXPERT_ROWS // 16 * matrix.stride
    x.expert_bytes = matrix.rows // routes.view.experts // 16 * matrix.stride
    return x


cdef int64_t sum_items(const Experts *x) noexcept nogil:
    return (x.dim + EXPERT_ROWS - 1) // EXPERT_ROWS


cdef int64_t sum_scratch(int lanes, int64_t T) noexcept nogil:
    return (lanes + 1) * T * EXPERT_ROWS


cdef void sum_item(const Experts *x, int64_t T, int64_t i, float *scratch) noexcept nogil:
    """Rows 32 i to 32 i + 31 of the result, for all tokens and all their experts."""
    cdef int64_t h, lane, step = 1, size = T * EXPERT_ROWS
    memset(scratch, 0, x.lanes * size * sizeof(float))
    for h in range(x.routing.hits[0]):
        for lane in range(x.lanes):
            _add_expert(x, T, i, x.routing.hit[h], lane, scratch + lane * size,
                        scratch + x.lanes * size)
    while step < x.lanes:
        lane = 0
        while lane < x.lanes:
            _add(scratch + lane * size, scratch + (lane + step) * size, 1, size)
            lane += 2 * step
        step *= 2
    _put(x, T, i, scratch)


cdef inline void _add_expert(const Experts *x, int64_t T, int64_t i, int64_t expert, int64_t lane,
                             float *sums, float *products) noexcept nogil:
    """sums[T][32] += weighted products of one expert and lane; products: scratch [T][32]."""
    cdef const Routing *r = x.routing
    cdef int64_t first = r.first[expert], count = r.first[expert + 1] - first, row, piece
    cdef dl_rows src = _from_row(x.src, lane * T * r.taken + first)
    cdef Matmul m = x.job
    m.w += expert * x.expert_bytes + (i * x.lanes + lane) * x.lane_bytes
    m.src, m.dst = &src, products
    for piece in range(matmul_items(&m)):
        matmul_item(&m, count, piece)
    for row in range(count):
        _add(sums + r.tokens[first + row] * EXPERT_ROWS, products + row * EXPERT_ROWS,
             r.factors[first + row], EXPERT_ROWS)


cdef inline void _add(float *sums, const float *x, float factor, int64_t n) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        sums[j] += factor * x[j]


cdef inline void _put(const Experts *x, int64_t T, int64_t i, const float *sums) noexcept nogil:
    """Store or add rows [T][32], as many of the 32 as the result has."""
    cdef int64_t t, valid = min(EXPERT_ROWS, x.dim - i * EXPERT_ROWS)
    cdef float *dst
    for t in range(T):
        dst = x.dst + t * x.dim + i * EXPERT_ROWS
        if x.add:
            _add(dst, sums + t * EXPERT_ROWS, 1, valid)
        else:
            memcpy(dst, sums + t * EXPERT_ROWS, valid * sizeof(float))


cdef struct ExpertsTask:
    const Routing *routing
    const float *src                # route, dispatch: [T][width]
    int64_t width
    const dl_rows *rows             # dispatch: [N][width]
    Experts experts                 # gated, sum


cdef int64_t route_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows


cdef int route_row(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    cdef const ExpertsTask *task = <const ExpertsTask *> op
    route_item(task.routing, run.floats, task.src + t * task.width, t, scratch)
    return 0


cdef int64_t one_item(const Pass *run, const void *op) noexcept nogil:
    return 1


cdef int sort_rows(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    sort_item((<const ExpertsTask *> op).routing, run.batch.rows)
    return 0


cdef class RouteOp(Op):
    """dst = the experts of each row and their weights, from the router's scores in src."""

    cdef ExpertsTask op
    cdef Routes routes

    def __init__(self, Bindings b, task):
        self.routes = b.buffers[task.dst]
        self.op.routing, self.op.src = &self.routes.view, b.floats(task.src)
        self.op.width = self.op.routing.experts
        self.scratch = self.op.width
        self.stage(route_items, route_row, &self.op)
        self.stage(one_item, sort_rows, &self.op)


cdef int64_t dispatch_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const ExpertsTask *> op).routing.taken


cdef int dispatch_row(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const ExpertsTask *task = <const ExpertsTask *> op
    dispatch_item(task.routing, run.floats, task.src, task.width, task.rows, i)
    return 0


cdef class DispatchOp(Op):
    """dst = rows of src as a matmul reads them, once for each expert, sorted by experts."""

    cdef ExpertsTask op
    cdef Routes routes

    def __init__(self, Bindings b, task):
        self.routes = b.buffers[task.routes]
        self.op.routing, self.op.src = &self.routes.view, b.floats(task.src)
        self.op.width, self.op.rows = b.rows(task.src).k, b.rows(task.dst)
        self.stage(dispatch_items, dispatch_row, &self.op)


cdef int64_t experts_gated_items(const Pass *run, const void *op) noexcept nogil:
    return gated_items(&(<const ExpertsTask *> op).experts)


cdef int experts_gated_item(const Pass *run, const void *op, int64_t i,
                            float *scratch) noexcept nogil:
    gated_item(&(<const ExpertsTask *> op).experts, run.batch.rows, i)
    return 0


cdef class ExpertsGatedOp(Op):
    """Rows of dst = gate and up of their experts times rows of src, activated."""

    cdef ExpertsTask op
    cdef Routes routes
    cdef PackedMatrix matrix

    def __init__(self, Bindings b, task):
        self.routes, self.matrix = b.buffers[task.routes], b.matrices[task.weight]
        self.op.experts = gated_job(self.routes, self.matrix, b.rows(task.src), b.rows(task.dst),
                                    task.lanes, task.then, b.threads)
        self.stage(experts_gated_items, experts_gated_item, &self.op)


cdef int64_t experts_sum_items(const Pass *run, const void *op) noexcept nogil:
    return sum_items(&(<const ExpertsTask *> op).experts)


cdef int experts_sum_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    sum_item(&(<const ExpertsTask *> op).experts, run.batch.rows, i, scratch)
    return 0


cdef class ExpertsSumOp(Op):
    """dst = for each row, the weighted sum over its experts of down times rows of src."""

    cdef ExpertsTask op
    cdef Routes routes
    cdef PackedMatrix matrix

    def __init__(self, Bindings b, task):
        self.routes, self.matrix = b.buffers[task.routes], b.matrices[task.weight]
        self.op.experts = sum_job(self.routes, self.matrix, b.rows(task.src), task.lanes,
                                  b.floats(task.dst), b.rows(task.dst).k, task.then == ADD,
                                  b.threads)
        self.scratch = sum_scratch(task.lanes, b.max_rows)
        self.stage(experts_sum_items, experts_sum_item, &self.op)


def route(const float[:, ::1] scores, int64_t taken, bint normalised=True):
    """The experts that tokens take and their weights: int32 and float32 (T, taken), best first.

    scores: float32 (T, E). Weights are the softmax over all experts, or with normalised over those
    that are taken. ValueError unless 1 <= taken <= E.
    """
    cdef int64_t T = scores.shape[0], E = scores.shape[1], t
    cdef Routes routes = Routes(T, E, taken, normalised)
    cdef const dl_floats *f = dl_floats_of(dl_isa())
    cdef float[::1] scratch = np.empty(E, np.float32)
    for t in range(T):
        route_item(&routes.view, f, &scores[t, 0], t, &scratch[0])
    if T == 0:
        return np.empty((0, taken), np.int32), np.empty((0, taken), np.float32)
    chosen = np.array(<int32_t[:T, :taken]> routes.view.chosen)
    return chosen, np.array(<float[:T, :taken]> routes.view.weights)
