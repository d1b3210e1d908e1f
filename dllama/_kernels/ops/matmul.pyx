"""Matrix times activations, for one row (GEMV) and for many (GEMM).

T: rows of activations, K: columns (inputs). The rows of the matrix (outputs) are packed in panels
of 16 (packed.pyx); simd/tile.h has the order of summation. An item is some panels times all T rows.
"""

from cython.parallel cimport prange
from libc.string cimport memcpy

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass, rows_of
from dllama._kernels.ops.elementwise cimport DL_TILE, Rows, dl_isa, float_kernels, put_blocks, put_row
from dllama._kernels.packed cimport PackedMatrix
from dllama._kernels.weight_types cimport dl_panel_headers, known

# Most panels in an item. GATED needs all 4: two panels of gate and two of up.
cdef enum:
    ITEM_PANELS = 4


cdef class Order:
    """The order of a sum over columns (dllama.graph.sum_tree).

    Args:
        segments: (columns, adds) of each segment.

    Raises:
        ValueError: a segment has less than no columns or adds more sums than there are, or too many sums wait.
    """

    def __cinit__(self, segments):
        cdef int64_t columns, adds
        cdef dl_segment *segment
        cdef list left = []  # the last segment of each sum that remains
        self.memory = Memory(max(1, len(segments)) * sizeof(dl_segment))
        segment = <dl_segment *> self.memory.data
        for columns, adds in segments:
            if columns < 0 or not 0 <= adds <= len(left):
                raise ValueError(f"a segment of {columns} columns adds {adds} of {len(left)} sums")
            segment[self.count].columns, segment[self.count].adds = <int32_t> columns, <int16_t> adds
            segment[self.count].ends = 0
            left[len(left) - adds:] = [self.count]
            self.columns += columns
            self.count += 1
        for index in left:
            segment[<int> index].ends = 1
        self.sums = len(left)
        if _waiting(segment, self.count) > DL_SUMS:
            raise ValueError(f"more than {DL_SUMS} sums wait to be added")

    cdef const dl_segment *segments(self) noexcept:
        return <const dl_segment *> self.memory.data


cdef int64_t _waiting(const dl_segment *segment, int64_t count) noexcept:
    """Most sums that wait to be added at the same time."""
    cdef int64_t waiting = 0, most = 0, i
    for i in range(count):
        waiting += 1 - segment[i].adds - segment[i].ends
        most = max(most, waiting)
    return most


cdef Matmul matmul_job(PackedMatrix matrix, const dl_rows *src, int then, int threads) except *:
    cdef Matmul m
    if src.k != matrix.cols:
        raise ValueError(f"rows have {src.k} columns, the matrix {matrix.cols}")
    if matrix.quantised != (src.x == NULL):
        raise ValueError(f"a matrix of weight type {matrix.weight_type} does not read "
                         f"{'floats' if src.x != NULL else 'Q80 blocks'}")
    cdef int64_t panels = (matrix.rows + 15) // 16
    m.w, m.stride, m.rows, m.k = matrix.data(), matrix.stride, matrix.rows, matrix.cols
    m.quantised, m.skip = matrix.quantised, matrix.skip
    m.headers = dl_panel_headers(matrix.weight_type, m.skip, m.k)
    m.then, m.src = then, src
    m.order, m.segments, m.sums = NULL, 1, 1
    m.tiles = dl_tiles_of(dl_isa(), matrix.weight_type)
    m.floats = float_kernels()
    m.panels_per_item = ITEM_PANELS
    while then < GATED and m.panels_per_item > 1 and panels < 4 * threads * m.panels_per_item:
        m.panels_per_item //= 2
    m.dst, m.ld, m.dst_stride, m.bias, m.gated = NULL, 0, 0, NULL, NULL
    return m


cdef int sum_in_order(Matmul *m, Order order) except -1:
    if order.columns != m.k or order.sums > DL_SUMS:
        raise ValueError(f"{order.sums} sums of {order.columns} columns, the matrix has {m.k}")
    m.order, m.segments, m.sums = order.segments(), order.count, order.sums
    return 0


cdef int64_t matmul_items(const Matmul *m) noexcept nogil:
    cdef int64_t panels = (m.rows + 15) // 16
    return (panels + m.panels_per_item - 1) // m.panels_per_item


cdef void matmul_item(const Matmul *m, int64_t T, int64_t i) noexcept nogil:
    """Some panels times all T rows."""
    cdef int64_t first = i * m.panels_per_item, panels = (m.rows + 15) // 16
    cdef int64_t count = min(m.panels_per_item, panels - first), t = 0, p, n, at
    cdef float out[DL_SUMS * DL_TILE_MOST * 16]
    cdef dl_segment whole
    cdef dl_tile tile
    whole.columns, whole.adds, whole.ends = <int32_t> m.k, 0, 1
    tile.order, tile.segments = m.order if m.order != NULL else &whole, m.segments
    tile.out_stride, tile.factors = DL_TILE_MOST * 16, NULL
    while t < T:
        n = tile_rows(m, T - t)
        point(m, &tile, t, n)
        for p in range(count):
            tile.w = m.w + (first + p) * m.stride
            for at in range(n):
                tile.out[at] = &out[((p if m.then >= GATED else 0) * DL_TILE_MOST + at) * 16]
            m.tiles.run(&tile, <int> n)
            if m.then < GATED:
                _put_rows(m, out, t, n, first + p)
        if m.then >= GATED:
            _put_gated(m, out, T, t, n, first // 4)
        t += n


cdef int64_t tile_rows(const Matmul *m, int64_t left) noexcept nogil:
    cdef int64_t n = min(m.tiles.most, left)
    return n - n % DL_TILE_TOKENS if n > DL_TILE_TOKENS else n


cdef void point(const Matmul *m, dl_tile *tile, int64_t t, int64_t n) noexcept nogil:
    cdef int64_t before = t * m.k // 32
    tile.ldx, tile.skip, tile.headers, tile.ahead = m.k, m.skip, m.headers, dl_ahead(n)
    if m.quantised:
        tile.q = m.src.q + 32 * before
        tile.d = m.src.d + before
        tile.s = m.src.s + before
        tile.h = m.src.h + before
    else:
        tile.x = m.src.x + t * m.k


cdef inline void _put_rows(const Matmul *m, const float *out, int64_t t, int64_t n,
                           int64_t panel) noexcept nogil:
    """Store or add a panel of n rows: out[sums][DL_TILE_MOST][16]."""
    cdef int64_t s, i, r, valid = min(16, m.rows - panel * 16)
    cdef const float *src
    cdef float *dst
    for s in range(m.sums):
        for i in range(n):
            src = out + (s * DL_TILE_MOST + i) * 16
            dst = m.dst + s * m.dst_stride + (t + i) * m.ld + panel * 16
            if m.bias != NULL:
                for r in range(valid):
                    dst[r] = src[r] + m.bias[panel * 16 + r]
            elif m.then == STORE:
                memcpy(dst, src, valid * sizeof(float))
            else:
                for r in range(valid):
                    dst[r] += src[r]


cdef inline void _put_gated(const Matmul *m, const float *out, int64_t T, int64_t t, int64_t n,
                            int64_t block) noexcept nogil:
    """Put the activation of two panels of gate and two of up into block `block` of n rows."""
    cdef float gate[32]
    cdef float up[32]
    cdef float h[32]
    cdef int64_t i, p
    for i in range(n):
        for p in range(2):
            memcpy(gate + 16 * p, out + (p * DL_TILE_MOST + i) * 16, 64)
            memcpy(up + 16 * p, out + ((p + 2) * DL_TILE_MOST + i) * 16, 64)
        if m.then == GATED:
            m.floats.swiglu(gate, up, 32, h)
        else:
            m.floats.geglu(gate, up, 32, h)
        put_blocks(m.floats, m.gated, T, t + i, block, 1, h)


def matmul(PackedMatrix matrix, const float[:, ::1] x, order=None, int threads=1):
    """x times the transposed matrix. For quantised weights, x is quantised to Q80 first.

    Args:
        matrix: rows x K.
        x: float32 (T, K).
        order: (columns, adds) of each segment of the sum over columns; by default, columns are
            added from left to right.
        threads: how many threads compute.

    Returns:
        float32 (T, rows) or, with an order, the sums that remain, (sums, T, rows).

    Raises:
        ValueError: x or the order does not fit the matrix.
    """
    cdef int64_t T = x.shape[0], K = x.shape[1], i, t
    cdef int64_t unit = known(matrix.weight_type).unit
    if K != matrix.cols:
        raise ValueError(f"x has {K} columns, expected {matrix.cols}")
    if any(columns % unit for columns, _ in order or ()):
        raise ValueError(f"the order cuts blocks of {unit} columns")
    cdef Order segments = Order(((K, 0),) if order is None else order)
    cdef Rows rows = Rows(T, K, matrix.quantised)
    cdef Matmul m = matmul_job(matrix, &rows.view, STORE, threads)
    sum_in_order(&m, segments)
    out = np.empty((segments.sums, T, matrix.rows), np.float32)
    cdef float[:, :, ::1] y = out
    if T:
        m.dst, m.ld, m.dst_stride = &y[0, 0, 0], matrix.rows, T * matrix.rows
    for t in prange(T, nogil=True, num_threads=threads):
        put_row(m.floats, m.src, T, t, &x[t, 0])
    for i in prange(matmul_items(&m), nogil=True, num_threads=threads, schedule="dynamic"):
        matmul_item(&m, T, i)
    return out[0] if order is None else out


cdef struct MatmulTask:
    Matmul job
    bint tail


cdef int64_t task_items(const Pass *run, const void *op) noexcept nogil:
    cdef const MatmulTask *task = <const MatmulTask *> op
    return matmul_items(&task.job) if rows_of(run, task.tail) else 0


cdef int task_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const MatmulTask *task = <const MatmulTask *> op
    matmul_item(&task.job, rows_of(run, task.tail), i)
    return 0


cdef class MatmulOp(Op):
    """dst = a matrix times src; Then says what happens to the product."""

    cdef MatmulTask op
    cdef PackedMatrix matrix
    cdef Order order

    def __init__(self, Bindings b, task):
        cdef Matmul *m = &self.op.job
        self.matrix, self.op.tail = b.matrices[task.weight], task.tail
        m[0] = matmul_job(self.matrix, b.rows(task.src), task.then, b.threads)
        if task.sums:
            self.order = Order([(one.columns, one.adds) for one in task.sums])
            sum_in_order(m, self.order)
        if task.then >= GATED:
            m.gated = b.rows(task.dst)
        else:
            m.dst, m.ld = b.floats(task.dst) + <int64_t> task.column, b.rows(task.dst).k
            m.dst_stride = b.max_rows * m.ld
            if task.column + m.rows > m.ld:
                raise ValueError(f"{task.dst} has {m.ld} columns, {task.weight} {m.rows} rows")
        m.bias = b.vector(task.bias, m.rows)
        if m.bias != NULL and (task.then != STORE or m.sums != 1):
            raise ValueError(f"{task.weight}: a bias goes with one sum that is stored")
        self.stage(task_items, task_item, &self.op)
