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
from dllama._kernels.weight_types cimport dl_panel_bytes, dl_type_bytes, dl_weight_type, known

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
    """The order of a sum over columns: (columns, adds) of each segment (dllama.graph.sum_tree).

    ValueError for segments without columns, and unless they add up to one sum.
    """

    def __cinit__(self, segments):
        cdef int64_t columns, adds, waiting = 0
        cdef dl_segment *segment
        self.memory = Memory(max(1, len(segments)) * sizeof(dl_segment))
        segment = <dl_segment *> self.memory.data
        for columns, adds in segments:
            if columns < 1 or not 0 <= adds <= waiting or waiting - adds >= DL_SUMS:
                raise ValueError(f"no segment of {columns} columns adds {adds} of {waiting} sums")
            segment.columns, segment.adds = <int32_t> columns, <int32_t> adds
            segment += 1
            waiting += 1 - adds
            self.columns += columns
            self.count += 1
        if waiting != 1:
            raise ValueError(f"the segments of an order end in {waiting} sums, expected 1")

    cdef const dl_segment *segments(self) noexcept:
        return <const dl_segment *> self.memory.data


cdef Matmul matmul_job(PackedMatrix matrix, const dl_rows *src, int then, int threads) noexcept:
    cdef Matmul m
    cdef int64_t groups = (matrix.rows + 15) // 16
    m.w, m.stride, m.rows, m.k = matrix.data(), matrix.stride, matrix.rows, matrix.cols
    m.quantised = matrix.quantised
    m.then, m.src = then, src
    m.first, m.order, m.segments = 0, NULL, 1
    m.tile = dl_tile_of(dl_isa(), matrix.weight_type)
    m.floats = dl_floats_of(dl_isa())
    m.groups_per_item = ITEM_GROUPS
    while then < GATED and m.groups_per_item > 1 and groups < 4 * threads * m.groups_per_item:
        m.groups_per_item //= 2
    m.dst, m.ld, m.bias, m.gated = NULL, 0, NULL, NULL
    return m


cdef void sum_in_order(Matmul *m, PackedMatrix matrix, int64_t first, Order order) noexcept:
    m.w = matrix.data() + dl_panel_bytes(matrix.weight_type, first)
    m.first, m.order, m.segments = first, order.segments(), order.count


cdef int64_t matmul_items(const Matmul *m) noexcept nogil:
    cdef int64_t groups = (m.rows + 15) // 16
    return (groups + m.groups_per_item - 1) // m.groups_per_item


cdef void matmul_item(const Matmul *m, int64_t T, int64_t i) noexcept nogil:
    cdef float out[ITEM_GROUPS * DL_TILE_TOKENS * 16]
    cdef int64_t first = i * m.groups_per_item, groups = (m.rows + 15) // 16
    cdef int64_t count = min(m.groups_per_item, groups - first)
    cdef int64_t step = DL_TILE_TOKENS if m.quantised else DL_TILE_FLOATS
    cdef int64_t t = 0, g, n
    cdef dl_segment whole
    cdef dl_tile tile
    whole.columns, whole.adds = <int32_t> m.k, 0
    tile.order, tile.segments = m.order if m.order != NULL else &whole, m.segments
    while t < T:
        n = min(step, T - t)
        _point(m, &tile, t, n)
        for g in range(count):
            tile.w = m.w + (first + g) * m.stride
            tile.out = &out[g * DL_TILE_TOKENS * 16]
            m.tile(&tile, <int> n)
        if m.then >= GATED:
            _put_gated(m, out, T, t, n, first // 4)
        else:
            _put_rows(m, out, t, n, first, count)
        t += n


cdef inline void _point(const Matmul *m, dl_tile *tile, int64_t t, int64_t n) noexcept nogil:
    """Point the tile at the activations of n tokens from token t on."""
    cdef int64_t before = t * m.k // 32 + n * m.first // 32
    tile.ldx = m.k
    if m.quantised:
        tile.q = m.src.q + 32 * before
        tile.d = m.src.d + before
        tile.s = m.src.s + before
    else:
        tile.x = m.src.x + t * m.k + m.first


cdef inline void _put_rows(const Matmul *m, const float *out, int64_t t, int64_t n, int64_t first,
                           int64_t count) noexcept nogil:
    """Store or add n tokens of `count` groups from group `first` on."""
    cdef int64_t g, i, r, valid
    cdef const float *src
    cdef float *dst
    for i in range(n):
        for g in range(count):
            src = out + (g * DL_TILE_TOKENS + i) * 16
            dst = m.dst + (t + i) * m.ld + (first + g) * 16
            valid = min(16, m.rows - (first + g) * 16)
            if m.bias != NULL:
                for r in range(valid):
                    dst[r] = src[r] + m.bias[(first + g) * 16 + r]
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


def matmul(PackedMatrix matrix, const float[:, ::1] x, order=None, int64_t first=0, int threads=1):
    """x times the transposed matrix: float32 (T, rows) from x (T, K).

    Quantised weights take x quantised to Q80. order: (columns, adds) of each segment of the
    sum, from column `first` on; without it all columns, one after another. ValueError where
    widths or an order do not fit.
    """
    cdef int64_t T = x.shape[0], K = x.shape[1], i, t
    cdef int64_t unit = known(matrix.weight_type).block
    if K != matrix.cols:
        raise ValueError(f"x has {K} columns, expected {matrix.cols}")
    cdef Order segments = Order(((K, 0),) if order is None else order)
    if first < 0 or first + segments.columns > K or first % unit or any(
            columns % unit for columns, _ in order or ()):
        raise ValueError(f"no order of {segments.columns} columns from {first} on fits {K} columns")
    cdef Rows rows = Rows(T, K, matrix.quantised)
    out = np.empty((T, matrix.rows), np.float32)
    if T == 0:
        return out
    cdef float[:, ::1] y = out
    cdef Matmul m = matmul_job(matrix, &rows.view, STORE, threads)
    sum_in_order(&m, matrix, first, segments)
    m.dst, m.ld = &y[0, 0], matrix.rows
    for t in prange(T, nogil=True, num_threads=threads):
        put_row(m.floats, m.src, T, t, &x[t, 0])
    for i in prange(matmul_items(&m), nogil=True, num_threads=threads, schedule="dynamic"):
        matmul_item(&m, T, i)
    return out


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
        if m.src.k != m.k:
            raise ValueError(f"{task.src} has {m.src.k} columns, {task.weight} {m.k}")
        if task.sums:
            self.order = Order([(one.columns, one.adds) for one in task.sums.segments])
            sum_in_order(m, self.matrix, task.sums.first, self.order)
        if task.then >= GATED:
            m.gated = b.rows(task.dst)
        else:
            m.dst, m.ld = b.floats(task.dst), m.rows
            m.dst += <int64_t> task.part * b.max_rows * m.ld
        m.bias = b.vector(task.bias, m.rows)
        self.stage(task_items, task_item, &self.op)
