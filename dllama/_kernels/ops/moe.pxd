# Mixtures of experts: which experts each token takes, and matmuls with the weights of these.
#
# T: tokens, E: experts, N: rows, one for each token and each expert that it takes. Rows are sorted
# by experts, those of an expert by tokens, so every expert's rows lie side by side.

from libc.stdint cimport int32_t, int64_t

from dllama._kernels.ops.elementwise cimport dl_floats, dl_rows
from dllama._kernels.ops.matmul cimport Matmul, Order, PackedMatrix, dl_segment
from dllama._kernels.memory cimport Memory


cdef struct Routing:
    int64_t experts, taken          # E, and how many of them a token takes
    bint normalised                 # the weights of a token's experts add up to 1
    int32_t *chosen                 # [T][taken] experts of a token
    float *weights                  # [T][taken]
    int32_t *tokens                 # [N] token of a row
    int32_t *owners                 # [N] expert of a row
    float *factors                  # [N] weight of a row
    int64_t *first                  # [E + 1] first row of an expert
    int64_t *cursor                 # [E], scratch
    int32_t *hit                    # [E] experts that have rows, ascending
    int64_t *hits                   # [1] how many


# Room for the routes of `tokens` tokens.
cdef class Routes:
    cdef Memory memory
    cdef Routing view

# First all route items (one per token; scratch [E]), then, after a barrier, the one sort item.
cdef void route_item(const Routing *r, const dl_floats *f, const float *scores, int64_t t,
                     float *scratch) noexcept nogil
cdef void sort_item(const Routing *r, int64_t T) noexcept nogil
# Row i of N: the floats of its token [T][width] as a matmul reads them.
cdef void dispatch_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        const dl_rows *dst, int64_t i) noexcept nogil

# Row i of N: the activation of floats [N][width], whose halves are rows of gate and of up, as a matmul
# reads them. scratch: as many floats as hidden units.
cdef void activate_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        bint gelu, const dl_rows *dst, int64_t i, float *scratch) noexcept nogil


# A matmul of all rows with the matrices of their experts, which lie one after another.
cdef struct Experts:
    const Routing *routing
    Matmul job                      # of one expert
    int64_t expert_bytes
    const dl_rows *src              # [N][K]
    const dl_rows *hidden           # gated: [N][hidden]
    const dl_segment *leaves        # sum: the segments of a row, which do not add yet
    float *dst                      # gated, STORE: [N][ld]; sum: [sums][T][dim], or added to
    int64_t dim, dst_step           # dst_step: floats from one sum to the next

cdef Experts gated_job(Routes routes, PackedMatrix matrix, const dl_rows *src,
                       const dl_rows *hidden, int then, int threads)
cdef int64_t gated_items(const Experts *x) noexcept nogil
cdef void gated_item(const Experts *x, int64_t i) noexcept nogil

# order, leaves: of the sum over columns; the same segments, but those of leaves add nothing.
cdef Experts sum_job(Routes routes, PackedMatrix matrix, const dl_rows *src, Order order,
                     Order leaves, int then, int threads)
cdef int64_t sum_items(const Experts *x) noexcept nogil
# scratch: sum_scratch floats.
cdef void sum_item(const Experts *x, int64_t T, int64_t i, float *scratch) noexcept nogil
cdef int64_t sum_scratch(Order order, int64_t T)
