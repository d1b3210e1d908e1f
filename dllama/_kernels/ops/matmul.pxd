# The matmul as independent items.

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t

from dllama._kernels.ops.elementwise cimport dl_floats, dl_rows
from dllama._kernels.memory cimport Memory
from dllama._kernels.packed cimport PackedMatrix


cdef extern from "simd/cpu.h" nogil:
    int dl_ahead(int64_t n)

cdef extern from "simd/matmul.h" nogil:
    enum:
        DL_TILE_TOKENS
        DL_TILE_MOST
        DL_SUMS
    ctypedef struct dl_segment:
        int32_t columns
        int16_t adds
        int16_t ends
    ctypedef struct dl_tile:
        const uint8_t *w
        const int8_t *q
        const float *d
        int64_t skip
        int64_t headers
        int64_t ahead
        const int32_t *s
        const int32_t *h
        const float *x
        int64_t ldx
        const dl_segment *order
        int segments
        float *out[32]              # DL_TILE_MOST
        int64_t out_stride
        const float *factors
    ctypedef void (*dl_tile_fn)(const dl_tile *, int n) noexcept nogil
    ctypedef struct dl_tiles:
        dl_tile_fn run
        int most
    const dl_tiles *dl_tiles_of(int isa, int type)


# What happens to the product. GATED is for matrices whose rows alternate between 32 of gate and 32
# of up: SwiGLU (GATED_GELU: GEGLU) of the products becomes the input of the next matmul.
cdef enum Then:
    STORE = 0
    ADD = 1
    GATED = 2
    GATED_GELU = 3


# The order of a sum: its segments, and how many sums remain after the last.
cdef class Order:
    cdef Memory memory
    cdef readonly int count, sums
    cdef readonly int64_t columns
    cdef const dl_segment *segments(self) noexcept


cdef struct Matmul:
    const uint8_t *w
    int64_t stride, rows, k
    int64_t skip, headers           # as in dl_tile
    int quantised, then
    const dl_segment *order         # NULL: all columns from left to right
    int segments, sums
    int64_t panels_per_item
    const dl_tiles *tiles
    const dl_floats *floats
    const dl_rows *src              # [T][k]
    float *dst                      # STORE, ADD: [sums][T][ld]
    int64_t ld, dst_stride            # dst_stride: floats from one sum to the next
    const float *bias               # STORE: [rows], added to the product; or NULL
    const dl_rows *gated            # GATED: [T][rows of gate]


# `threads` only decides how many panels an item has. ValueError if src has a different number of
# columns than the matrix, or holds floats where the weight type needs Q80 blocks or the reverse.
cdef Matmul matmul_job(PackedMatrix matrix, const dl_rows *src, int then, int threads) except *
# Sum columns in this order, which must outlive the job. ValueError unless it covers all columns.
cdef int sum_in_order(Matmul *m, Order order) except -1
cdef int64_t matmul_items(const Matmul *m) noexcept nogil
# Item i: some panels times all T rows. Items write to different columns of dst.
cdef void matmul_item(const Matmul *m, int64_t T, int64_t i) noexcept nogil
# How many of the next `left` rows a tile takes.
cdef int64_t tile_rows(const Matmul *m, int64_t left) noexcept nogil
# Point a tile at the activations of n rows from row t on.
cdef void point(const Matmul *m, dl_tile *tile, int64_t t, int64_t n) noexcept nogil
