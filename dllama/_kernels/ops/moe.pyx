"""Mixtures of experts (Shazeer et al. 2017; Fedus et al. 2022; Jiang et al. 2024, Mixtral).

A router scores E experts for each row. The row takes the `taken` best, weighted by the softmax or
the sigmoid of the scores. They may be those of the best groups, chosen with a correction
(DeepSeek-AI 2024, DeepSeek-V2 and V3). Entries, one for each row and each expert that it takes, are
sorted by expert: a pass reads the weights of each chosen expert once, of the others never.

The result of a row is a sum over the columns of the down projection and over the row's experts.
Within each segment of the columns, experts are added in ascending order, each times its weight,
last one that all rows share. Then the segments are added, as in dllama.graph.sum_tree. So it has
the same bits for any number of nodes that hold whole segments.
"""

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.ops.elementwise cimport Activation, activate, float_kernels, put_row
from dllama._kernels.ops.matmul cimport (
    ADD, GATED, STORE, Matmul, Order, dl_tile, matmul_item, matmul_items, matmul_job, point,
    sum_in_order, tile_rows,
)
from dllama._kernels.ops.segments cimport add_products, put_sums

# Rows for which an item of a sum has several panels: reading each expert's from end to end is then
# most of the work. With more rows the sums would leave the cache.
cdef enum:
    FEW = 8

cdef float LEFT = -INFINITY  # marks an expert or a group that cannot be chosen
cdef float SMALLEST = 1e-20  # keeps the sum of sigmoids that these are divided by above 0


cdef class Routes:
    """Memory for the experts of each row and their weights.

    Args:
        rows: most rows of a batch.
        experts: experts of the layer.
        taken: experts that a row takes, 1 to `experts`; ValueError otherwise.
        normalised: whether the weights of a row's experts are scaled to add up to 1.
        sigmoid: whether weights are the sigmoid of each score, not the softmax over all.
        groups: experts are in so many groups of equal size; ValueError if they cannot be.
        groups_taken: only the experts of so many groups are taken, 1 to `groups`.
        group_best: the score of a group is the sum of those of so many of its best, 1 or 2.
        scale: factor of all weights.
    """

    def __cinit__(self, int64_t rows, int64_t experts, int64_t taken, bint normalised,
                  bint sigmoid=False, int64_t groups=1, int64_t groups_taken=1,
                  int64_t group_best=1, float scale=1):
        cdef int64_t N = rows * taken
        cdef Routing *r = &self.view
        if not 1 <= groups_taken <= groups or experts % groups:
            raise ValueError(f"{experts} experts cannot be in {groups} groups, {groups_taken} taken")
        if not 1 <= taken <= experts // groups * groups_taken:
            raise ValueError(f"a row cannot take {taken} of {experts} experts")
        self.memory = Memory(8 * (2 * experts + 2) + 4 * (5 * N + experts))
        r.experts, r.taken, r.normalised = experts, taken, normalised
        r.sigmoid, r.scale = sigmoid, scale
        r.groups, r.groups_taken, r.group_best = groups, groups_taken, group_best
        r.first = <int64_t *> self.memory.data
        r.cursor = r.first + experts + 1
        r.hits = r.cursor + experts
        r.chosen = <int32_t *> (r.hits + 1)
        r.rows = r.chosen + N
        r.owners = r.rows + N
        r.hit = r.owners + N
        r.weights = <float *> (r.hit + experts)
        r.factors = r.weights + N

    def part(self, int64_t first, int64_t count, int64_t of):
        """The same for `count` rows, in memory of its own: entries are sorted over all rows."""
        cdef Routing *r = &self.view
        return Routes(count, r.experts, r.taken, r.normalised, r.sigmoid, r.groups, r.groups_taken,
                      r.group_best, r.scale)

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self.memory.nbytes


cdef void route_item(const Routing *r, const dl_floats *f, const float *scores,
                     const float *correction, const float *scales, int64_t t,
                     float *scratch) noexcept nogil:
    """Choose the experts of row t from scores[E]; the first of a tie wins."""
    cdef int32_t *chosen = r.chosen + t * r.taken
    cdef float *weights = r.weights + t * r.taken
    cdef float *choice = scratch + r.experts
    cdef float sum
    cdef int64_t s
    if r.sigmoid:
        sum = _sigmoid(f, scores, r.experts, scratch)
    else:
        sum = _softmax(f, scores, r.experts, scratch)
    memcpy(choice, scratch, r.experts * sizeof(float))
    if correction != NULL:
        for s in range(r.experts):
            choice[s] += correction[s]
    if r.groups_taken < r.groups:
        _leave_groups(r, choice, choice + r.experts)
    for s in range(r.taken):
        chosen[s] = _largest(choice, r.experts)
        weights[s] = scratch[chosen[s]]
        choice[chosen[s]] = LEFT
    if r.normalised:
        sum = SMALLEST if r.sigmoid else 0
        for s in range(r.taken):
            sum += weights[s]
    for s in range(r.taken):
        weights[s] = weights[s] / sum * r.scale
        if scales != NULL:
            weights[s] *= scales[chosen[s]]


cdef inline float _sigmoid(const dl_floats *f, const float *scores, int64_t n,
                           float *out) noexcept nogil:
    """out[n] = sigmoid(score). Returns 1, what these are divided by."""
    cdef int64_t e
    for e in range(n):
        out[e] = -scores[e]
    f.exp_row(out, n, out)
    for e in range(n):
        out[e] = 1 / (1 + out[e])
    return 1


cdef inline void _leave_groups(const Routing *r, float *choice, float *best) noexcept nogil:
    """Mark the experts of all but the best groups. best[groups] is scratch."""
    cdef int64_t size = r.experts // r.groups, g, e
    for g in range(r.groups):
        best[g] = _group_score(choice + g * size, size, r.group_best)
    for g in range(r.groups_taken):
        best[_largest(best, r.groups)] = LEFT
    for g in range(r.groups):
        if best[g] != LEFT:
            for e in range(g * size, (g + 1) * size):
                choice[e] = LEFT


cdef inline float _group_score(const float *choice, int64_t size, int64_t best) noexcept nogil:
    """The largest of choice[size], or the sum of the two largest."""
    cdef float first = choice[0], second = LEFT
    cdef int64_t e
    for e in range(1, size):
        if choice[e] > first:
            first, second = choice[e], first
        elif choice[e] > second:
            second = choice[e]
    return first + second if best > 1 and size > 1 else first


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
    """Index of the largest number that is not marked (LEFT). With NaN, any such index."""
    cdef int64_t e, best = -1
    for e in range(n):
        if p[e] != LEFT and (best < 0 or p[e] > p[best]):
            best = e
    return <int32_t> best


cdef void sort_item(const Routing *r, int64_t T) noexcept nogil:
    """Sort entries by expert, then by row: a counting sort."""
    cdef int64_t e, i, entry, N = T * r.taken
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
        entry = r.cursor[e]
        r.cursor[e] += 1
        r.rows[entry], r.owners[entry] = <int32_t> (i // r.taken), <int32_t> e
        r.factors[entry] = r.weights[i]


cdef inline dl_rows _from_row(const dl_rows *rows, int64_t first) noexcept nogil:
    """The rows from `first` on, the first entry of an expert: tiles are counted from there."""
    cdef dl_rows rest = rows[0]
    cdef int64_t nb = rows.k // 32
    if rows.x != NULL:
        rest.x = rows.x + first * rows.k
        return rest
    rest.q, rest.d = rows.q + first * rows.k, rows.d + first * nb
    rest.s, rest.h = rows.s + first * nb, rows.h + first * nb
    return rest


cdef void dispatch_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        const dl_rows *dst, int64_t i) noexcept nogil:
    cdef int64_t expert = r.owners[i], first = r.first[expert]
    cdef dl_rows rows = _from_row(dst, first)
    put_row(f, &rows, r.first[expert + 1] - first, i - first, src + r.rows[i] * width)


cdef void activate_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        const Activation *act, const dl_rows *dst, int64_t i,
                        float *scratch) noexcept nogil:
    cdef int64_t expert = r.owners[i], first = r.first[expert]
    cdef const float *gate = src + i * width
    cdef dl_rows rows = _from_row(dst, first)
    activate(f, act, gate, gate + width // 2, dst.k, scratch)
    put_row(f, &rows, r.first[expert + 1] - first, i - first, scratch)


cdef void add_biases(const Routing *r, const float *bias, int64_t width, int64_t t,
                     float *dst) noexcept nogil:
    cdef int64_t s, j
    cdef float weight
    cdef const float *row
    for s in range(r.taken):
        weight = r.weights[t * r.taken + s]
        row = bias + r.chosen[t * r.taken + s] * width
        for j in range(width):
            dst[j] += weight * row[j]


cdef Experts gated_job(Routes routes, PackedMatrix matrix, const dl_rows *src,
                       const dl_rows *hidden, int then, int threads):
    """Gate and up of all experts. GATED: 64 rows of the matrix for each 32 hidden units."""
    cdef Experts x = _job(routes, matrix, src, then, threads)
    x.hidden = hidden
    return x


cdef Experts _job(Routes routes, PackedMatrix matrix, const dl_rows *src, int then, int threads):
    """A matmul with all experts, whose matrices have equal numbers of rows, in whole panels."""
    cdef Experts x
    memset(&x, 0, sizeof(Experts))
    x.routing, x.src = &routes.view, src
    x.job = matmul_job(matrix, src, then, threads)
    x.job.rows = matrix.rows // routes.view.experts
    x.expert_bytes = x.job.rows // 16 * matrix.stride
    return x


cdef int64_t gated_items(const Experts *x) noexcept nogil:
    return x.routing.hits[0] * matmul_items(&x.job)


cdef void gated_item(const Experts *x, int64_t i) noexcept nogil:
    """Some hidden units of one expert for all its entries."""
    cdef int64_t pieces = matmul_items(&x.job), expert = x.routing.hit[i // pieces]
    cdef int64_t first = x.routing.first[expert]
    cdef dl_rows src = _from_row(x.src, first)
    cdef dl_rows hidden
    cdef Matmul m = x.job
    m.w += expert * x.expert_bytes
    if m.bias != NULL:
        m.bias += expert * m.rows
    m.src = &src
    if m.then >= GATED:
        hidden = _from_row(x.hidden, first)
        m.gated = &hidden
    else:
        m.dst = x.dst + first * m.ld
    matmul_item(&m, x.routing.first[expert + 1] - first, i % pieces)


cdef int sum_experts(ExpertsSum *x, Routes routes, PackedMatrix matrix, const dl_rows *src,
                     Order order, Order leaves, int threads) except -1:
    x.experts = _job(routes, matrix, src, STORE, threads)
    x.leaves = leaves.segments()
    return _in_order(x, &x.experts.job, order)


cdef int sum_shared(ExpertsSum *x, PackedMatrix matrix, const dl_rows *src, const float *factors,
                    Order order, Order leaves, int threads) except -1:
    x.shared = matmul_job(matrix, src, STORE, threads)
    x.factors, x.shared_leaves = factors, leaves.segments()
    return _in_order(x, &x.shared, order)


cdef int _in_order(ExpertsSum *x, Matmul *job, Order order) except -1:
    sum_in_order(job, order)
    x.order, x.segments = order.segments(), order.count
    return 0


cdef inline int64_t _run(const ExpertsSum *x, int64_t T) noexcept nogil:
    """Panels of an item. Those of an expert follow one another in memory."""
    return x.panels if T <= FEW else 1


cdef int64_t sum_items(const ExpertsSum *x, int64_t T) noexcept nogil:
    cdef int64_t run = _run(x, T)
    return ((x.dim + 15) // 16 + run - 1) // run


cdef int64_t sum_panels(const ExpertsSum *x, int threads):
    cdef int64_t panels = (x.dim + 15) // 16, run = 8
    while run > 1 and panels < 4 * threads * run:
        run //= 2
    return run


cdef int64_t sum_scratch(const ExpertsSum *x, int64_t T):
    return max(T, min(T, FEW) * x.panels) * x.segments * 16


cdef void sum_item(const ExpertsSum *x, int64_t T, int64_t i, float *scratch) noexcept nogil:
    """The columns of some panels, for all rows and all their experts."""
    cdef int64_t run = _run(x, T), first = i * run, width = x.segments * 16, h, p, t
    cdef int64_t count = min(run, (x.dim + 15) // 16 - first)
    memset(scratch, 0, count * T * width * sizeof(float))
    if x.experts.job.w != NULL:
        for h in range(x.experts.routing.hits[0]):
            for p in range(count):
                _add_expert(x, x.experts.routing.hit[h], first + p, scratch + p * T * width)
    for p in range(count):
        if x.shared.w != NULL:
            add_products(&x.shared, x.shared_leaves, x.segments, x.factors, T, first + p,
                         scratch + p * T * width)
        for t in range(T):
            put_sums(x.order, x.segments, scratch + (p * T + t) * width, x.then == ADD,
                     x.dst + t * x.dim + (first + p) * 16, x.dst_stride,
                     min(16, x.dim - (first + p) * 16))


cdef inline void _add_expert(const ExpertsSum *x, int64_t expert, int64_t panel,
                             float *sums) noexcept nogil:
    """sums[T][segments][16] += weighted products of one panel of one expert."""
    cdef const Routing *r = x.experts.routing
    cdef int64_t first = r.first[expert], count = r.first[expert + 1] - first, t = 0, n, at
    cdef dl_rows src = _from_row(x.experts.src, first)
    cdef Matmul m = x.experts.job
    cdef dl_tile tile
    m.src = &src
    tile.w = m.w + expert * x.experts.expert_bytes + panel * m.stride
    tile.order, tile.segments, tile.out_stride = x.leaves, x.segments, 16
    while t < count:
        n = tile_rows(&m, count - t)
        point(&m, &tile, t, n)
        tile.factors = r.factors + first + t
        for at in range(n):
            tile.out[at] = sums + r.rows[first + t + at] * x.segments * 16
        m.tiles.run(&tile, <int> n)
        t += n


def route(const float[:, ::1] scores, int64_t taken, bint normalised=True, correction=None,
          scales=None, **options):
    """Choose the best experts of each row.

    Args:
        scores: float32 (T, E).
        taken: experts that a row takes, 1 to E; ValueError otherwise.
        normalised: whether the weights of a row add up to 1 (softmax: over the chosen experts only,
            not over all).
        correction: float32 (E,), added to softmax or sigmoid for the choice only.
        scales: float32 (E,), factors of the weights of each expert.
        **options: the other arguments of Routes.

    Returns:
        The experts, int32 (T, taken), best first, and their weights, float32 (T, taken).
    """
    cdef int64_t T = scores.shape[0], E = scores.shape[1], t
    cdef Routes routes = Routes(T, E, taken, normalised, **options)
    cdef const dl_floats *f = float_kernels()
    cdef float[::1] scratch = np.empty(3 * E, np.float32)
    cdef const float[::1] added = np.zeros(E, np.float32) if correction is None else correction
    cdef const float[::1] factors = np.ones(E, np.float32) if scales is None else scales
    for t in range(T):
        route_item(&routes.view, f, &scores[t, 0], &added[0], &factors[0], t, &scratch[0])
    if T == 0:
        return np.empty((0, taken), np.int32), np.empty((0, taken), np.float32)
    chosen = np.array(<int32_t[:T, :taken]> routes.view.chosen)
    return chosen, np.array(<float[:T, :taken]> routes.view.weights)
