"""Matrix times activations, for one token (GEMV) and for a batch (GEMM) alike.

T: tokens, K: columns (inputs), rows: outputs. The weights are repacked in groups
of 16 rows, so that a SIMD lane is a row (simd/tile.h has the layout and the order
of summation). A work item is some groups of rows for all tokens.
"""

from cython.parallel cimport prange
from libc.string cimport memcpy

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass, rows_of
from dllama._kernels.ops.elementwise cimport DL_TILE, Rows, dl_floats_of, dl_isa, put_blocks, put_row
from dllama._kernels.weight_types cimport dl_type_bytes, dl_weight_type, known

# Groups in an item; gate and up come as 2 + 2 groups, so it is a multiple of 4 there.
cdef enum:
    ITEM_GROUPS = 4


cdef class PackedMatrix:
    """rows x cols weights of one weight type, zero until filled.

    ValueError for an unknown type, and for cols that are not whole blocks.
    """

    def __cinit__(self, int64_t rows, int64_t cols, int weight_type):
        cdef const dl_weight_type *kind = known(weight_type)
        if rows < 1 or cols < 1 or cols % kind.block:
            raise ValueError(f"no packed matrix of {rows} x {cols} in {kind.name.decode()}")
        self.rows, self.cols, self.weight_type = rows, cols, weight_type
        self.quantised = kind.quantised
        self.stride = dl_panel_stride(weight_type, cols)
        self.memory = Memory((rows + 15) // 16 * self.stride)

    @property
    def nbytes(self):
        """Bytes of the packed weights."""
        return self.memory.nbytes

    cdef const uint8_t *data(self) noexcept:
        return <const uint8_t *> self.memory.data

    def fill(self, int64_t first, const uint8_t[:, :] src, int64_t block=0, int64_t step=0,
             int threads=1):
        """Copy rows as the model file holds them, uint8 (n, bytes of a row), to rows from `first`.

        With block and step, every `block` source rows go `step` rows further on: source row i
        becomes row first + i // block * step + i % block. ValueError where they do not fit.
        """
        cdef int64_t n = src.shape[0], i, chunk, chunks = (n + 15) // 16
        cdef int64_t width = block if block else max(n, 1)
        cdef int64_t row_bytes = dl_type_bytes(self.weight_type, self.cols)
        cdef int64_t last = first + (n - 1) // width * step + (n - 1) % width
        if src.shape[1] > 1 and src.strides[1] != 1:
            raise ValueError("the bytes of a row lie apart")
        if first < 0 or last >= self.rows or (n and src.shape[1] != row_bytes):
            raise ValueError(
                f"{n} rows of {src.shape[1]} bytes from row {first} do not fit in "
                f"{self.rows} rows of {row_bytes} bytes"
            )
        for chunk in prange(chunks, nogil=True, num_threads=threads, schedule="static"):
            for i in range(16 * chunk, min(n, 16 * chunk + 16)):
                _fill_row(self, first + i // width * step + i % width, &src[i, 0])


cdef void _fill_row(PackedMatrix matrix, int64_t row, const uint8_t *src) noexcept nogil:
    cdef uint8_t *panel = <uint8_t *> matrix.memory.data + row // 16 * matrix.stride
    dl_pack_row(matrix.weight_type, matrix.cols, <int> (row % 16), src, panel)


cdef class Order:
    """The order of a sum over columns (dllama.graph.sum_tree).

    Args:
        segments: (columns, adds) of each.

    Raises:
        ValueError: a segment without columns, or one that adds sums that are not there.
    """

    def __cinit__(self, segments):
        cdef int64_t columns, adds
        cdef dl_segment *segment
        cdef list left = []  # the segments after which the sums so far are complete
        self.memory = Memory(max(1, len(segments)) * sizeof(dl_segment))
        segment = <dl_segment *> self.memory.data
        for columns, adds in segments:
            if columns < 1 or not 0 <= adds <= len(left):
                raise ValueError(f"no segment of {columns} columns adds {adds} of {len(left)} sums")
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
    """Most sums that wait at the same time."""
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
        raise ValueError(f"rows of {'floats' if src.x != NULL else 'blocks'} do not feed a matrix "
                         f"of weight type {matrix.weight_type}")
    cdef int64_t groups = (matrix.rows + 15) // 16
    m.w, m.stride, m.rows, m.k = matrix.data(), matrix.stride, matrix.rows, matrix.cols
    m.quantised = matrix.quantised
    m.then, m.src = then, src
    m.order, m.segments, m.sums = NULL, 1, 1
    m.tile = dl_tile_of(dl_isa(), matrix.weight_type)
    m.floats = dl_floats_of(dl_isa())
    m.groups_per_item = ITEM_GROUPS
    while then < GATED and m.groups_per_item > 1 and groups < 4 * threads * m.groups_per_item:
        m.groups_per_item //= 2
    m.dst, m.ld, m.dst_step, m.bias, m.gated = NULL, 0, 0, NULL, NULL
    return m


cdef int sum_in_order(Matmul *m, Order order) except -1:
    if order.columns != m.k or order.sums > DL_SUMS:
        raise ValueError(f"no {order.sums} sums of {order.columns} columns come from {m.k} columns")
    m.order, m.segments, m.sums = order.segments(), order.count, order.sums
    return 0


cdef int64_t matmul_items(const Matmul *m) noexcept nogil:
    cdef int64_t groups = (m.rows + 15) // 16
    return (groups + m.groups_per_item - 1) // m.groups_per_item


cdef void matmul_item(const Matmul *m, int64_t T, int64_t i) noexcept nogil:
    cdef float out[DL_SUMS * DL_TILE_TOKENS * 16]
    cdef int64_t first = i * m.groups_per_item, groups = (m.rows + 15) // 16
    cdef int64_t count = min(m.groups_per_item, groups - first)
    cdef int64_t step = DL_TILE_TOKENS if m.quantised else DL_TILE_FLOATS
    cdef int64_t t = 0, g, n, at
    cdef dl_segment whole
    cdef dl_tile tile
    whole.columns, whole.adds, whole.ends = <int32_t> m.k, 0, 1
    tile.order, tile.segments = m.order if m.order != NULL else &whole, m.segments
    tile.out_step, tile.factors = DL_TILE_TOKENS * 16, NULL
    while t < T:
        n = min(step, T - t)
        point(m, &tile, t, n)
        for g in range(count):
            tile.w = m.w + (first + g) * m.stride
            for at in range(n):
                tile.out[at] = &out[((g if m.then >= GATED else 0) * DL_TILE_TOKENS + at) * 16]
            m.tile(&tile, <int> n)
            if m.then < GATED:
                _put_rows(m, out, t, n, first + g)
        if m.then >= GATED:
            _put_gated(m, out, T, t, n, first // 4)
        t += n


cdef void point(const Matmul *m, dl_tile *tile, int64_t t, int64_t n) noexcept nogil:
    cdef int64_t before = t * m.k // 32
    tile.ldx = m.k
    if m.quantised:
        tile.q = m.src.q + 32 * before
        tile.d = m.src.d + before
        tile.s = m.src.s + before
    else:
        tile.x = m.src.x + t * m.k


cdef inline void _put_rows(const Matmul *m, const float *out, int64_t t, int64_t n,
                           int64_t panel) noexcept nogil:
    """Store or add n tokens of a panel: out[sums][DL_TILE_TOKENS][16]."""
    cdef int64_t s, i, r, valid = min(16, m.rows - panel * 16)
    cdef const float *src
    cdef float *dst
    for s in range(m.sums):
        for i in range(n):
            src = out + (s * DL_TILE_TOKENS + i) * 16
            dst = m.dst + s * m.dst_step + (t + i) * m.ld + panel * 16
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
    """32 rows of gate with 32 of up, activated and put as block `block` of the next matmul's rows."""
    cdef float gate[32]
    cdef float up[32]
    cdef float h[32]
    cdef int64_t i, g
    for i in range(n):
        for g in range(2):
            memcpy(gate + 16 * g, out + (g * DL_TILE_TOKENS + i) * 16, 64)
            memcpy(up + 16 * g, out + ((g + 2) * DL_TILE_TOKENS + i) * 16, 64)
        if m.then == GATED:
            m.floats.swiglu(gate, up, 32, h)
        else:
            m.floats.geglu(gate, up, 32, h)
        put_blocks(m.floats, m.gated, T, t + i, block, 1, h)


def matmul(PackedMatrix matrix, const float[:, ::1] x, order=None, int threads=1):
    """x times the transposed matrix. Quantised weights take x quantised to Q80.

    Args:
        x: float32 (T, K).
        order: (columns, adds) of each segment of the sum over the columns; default: all of them
            one after another.

    Returns:
        float32 (T, rows), or with an order (sums, T, rows): the sums that are left.

    Raises:
        ValueError: widths or an order do not fit.
    """
    cdef int64_t T = x.shape[0], K = x.shape[1], i, t
    cdef int64_t unit = known(matrix.weight_type).block
    if K != matrix.cols:
        raise ValueError(f"x has {K} columns, expected {matrix.cols}")
    if any(columns % unit for columns, _ in order or ()):
        raise ValueError(f"an order cuts blocks of {unit} columns")
    cdef Order segments = Order(((K, 0),) if order is None else order)
    cdef Rows rows = Rows(T, K, matrix.quantised)
    cdef Matmul m = matmul_job(matrix, &rows.view, STORE, threads)
    sum_in_order(&m, segments)
    out = np.empty((segments.sums, T, matrix.rows), np.float32)
    cdef float[:, :, ::1] y = out
    if T:
        m.dst, m.ld, m.dst_step = &y[0, 0, 0], matrix.rows, T * matrix.rows
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
    """dst = a matrix times src, then as Then says."""

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
            m.dst_step = b.max_rows * m.ld
            if task.column + m.rows > m.ld:
                raise ValueError(f"{task.dst} has {m.ld} columns, {task.weight} {m.rows} rows")
        m.bias = b.vector(task.bias, m.rows)
        self.stage(task_items, task_item, &self.op)
