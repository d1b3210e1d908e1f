# Row-wise float kernels, and the encoding of rows that a matmul reads.

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t

from dllama._kernels.memory cimport Memory


cdef extern from "simd/elementwise.h" nogil:
    # Each works on one row of n elements; n need not be a multiple of 16.
    ctypedef struct dl_floats:
        void (*rmsnorm)(const float *x, const float *weight, float epsilon, int64_t n, float *y) noexcept nogil
        void (*layernorm)(const float *x, const float *weight, const float *bias, float epsilon, int64_t n,
                          float *y) noexcept nogil  # bias may be NULL
        void (*silu)(const float *x, int64_t n, float *h) noexcept nogil
        void (*gelu)(const float *x, int64_t n, float *h) noexcept nogil
        void (*swiglu)(const float *gate, const float *up, int64_t n, float *h) noexcept nogil
        void (*geglu)(const float *gate, const float *up, int64_t n, float *h) noexcept nogil
        void (*swiglu_clamped)(const float *gate, const float *up, int64_t n, float limit,
                               float *h) noexcept nogil
        void (*softcap)(const float *x, int64_t n, float cap, float *y) noexcept nogil
        void (*quantise_row)(const float *x, int64_t nb, int n, int8_t *q, float *d, int32_t *s,
                             int32_t *h) noexcept nogil
        void (*exp_row)(const float *x, int64_t n, float *y) noexcept nogil

cdef extern from "simd/cpu.h" nogil:
    int dl_isa()

cdef extern from "ops/batch.h" nogil:
    enum:
        DL_TILE
    # The fields are described in batch.h.
    ctypedef struct dl_span:
        int64_t first
        int64_t count
        int64_t position
        int64_t lag
        int64_t tentative
        const int32_t *blocks
        int64_t partials
    ctypedef struct dl_batch:
        int64_t rows
        const int32_t *ids
        const int32_t *positions
        const uint8_t *lengthened
        const int32_t *blocks
        int64_t n_wanted
        const int32_t *wanted
        int64_t n_spans
        const dl_span *spans
    ctypedef struct dl_rows:
        int64_t k
        float *x
        int8_t *q
        float *d
        int32_t *s
        int32_t *h
    int dl_tile_width(int64_t T, int64_t t)


# The kernels of the instruction set in use.
cdef const dl_floats *float_kernels() noexcept nogil

# Memory for rows that a matmul reads.
cdef class Rows:
    cdef dl_rows view
    cdef Memory memory
    cdef readonly int64_t count

# Put blocks of 32 floats into row t, of T rows, from column 32 * first on. If rows hold floats,
# those beyond the last column are dropped.
cdef void put_blocks(const dl_floats *f, const dl_rows *rows, int64_t T, int64_t t,
                     int64_t first, int64_t blocks, const float *x) noexcept nogil

# Put a whole row of rows.k floats into row t, of T rows.
cdef void put_row(const dl_floats *f, const dl_rows *rows, int64_t T, int64_t t,
                  const float *x) noexcept nogil

# The activation of a feed-forward network; `then` is one of those in dllama._kernels.tasks.Then.
cdef enum:
    GATED = 2
    GATED_GELU = 3
    GATED_CLAMPED = 4
    SILU = 5
    GELU = 6

cdef struct Activation:
    int then
    float limit                     # GATED_CLAMPED

# h[n] = the activation of gate[n] and up[n]; SILU and GELU read only gate.
cdef inline void activate(const dl_floats *f, const Activation *a, const float *gate, const float *up,
                          int64_t n, float *h) noexcept nogil:
    if a.then == GATED_CLAMPED:
        f.swiglu_clamped(gate, up, n, a.limit, h)
    elif a.then == GATED_GELU:
        f.geglu(gate, up, n, h)
    elif a.then == SILU:
        f.silu(gate, n, h)
    elif a.then == GELU:
        f.gelu(gate, n, h)
    else:
        f.swiglu(gate, up, n, h)
