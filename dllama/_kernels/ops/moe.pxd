# Mixtures of experts: which experts each row takes, and matmuls with the weights of those experts.
#
# T: rows of the batch. E: experts. N = T * taken: entries, one for each row and each expert that it
# takes. Entries are sorted by expert, then by row, so those of an expert are contiguous.

from libc.stdint cimport int32_t, int64_t

from dllama._kernels.ops.elementwise cimport Activation, dl_floats, dl_rows
from dllama._kernels.ops.matmul cimport Matmul, Order, dl_segment
from dllama._kernels.packed cimport PackedMatrix
from dllama._kernels.memory cimport Memory


cdef struct Routing:
    int64_t experts, taken          # E, and how many of them a row takes
    bint normalised                 # the weights of a row's experts are scaled to add up to 1
    bint sigmoid                    # of each score; otherwise the softmax over all
    int64_t groups, groups_taken    # experts are those of the groups with the best scores
    int64_t group_best              # a group's score is the sum of so many best, 1 or 2
    float scale                     # factor of all weights
    int32_t *chosen                 # [T][taken] experts of a row
    float *weights                  # [T][taken] their weights
    int32_t *rows                   # [N] row of an entry
    int32_t *owners                 # [N] expert of an entry
    float *factors                  # [N] weight of an entry
    int64_t *first                  # [E + 1] first entry of an expert
    int64_t *cursor                 # [E], scratch
    int32_t *hit                    # [E] experts that have entries, ascending
    int64_t *hits                   # [1] how many those are


# Memory for a Routing.
cdef class Routes:
    cdef Memory memory
    cdef Routing view

# Two stages: a route item for each row (scratch: [3 E]), then, when these are done, one sort item.
# correction: [E], added for the choice only; or NULL. scales: [E], factors of the weights; or NULL.
cdef void route_item(const Routing *r, const dl_floats *f, const float *scores,
                     const float *correction, const float *scales, int64_t t,
                     float *scratch) noexcept nogil
cdef void sort_item(const Routing *r, int64_t T) noexcept nogil
# Put the row of entry i, of src[T][width], into row i of dst as a matmul reads it.
cdef void dispatch_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        const dl_rows *dst, int64_t i) noexcept nogil

# Put the activation of entry i, of src[N][width], into row i of dst as a matmul reads it. The
# columns of src are gate, then up. scratch: [hidden units].
cdef void activate_item(const Routing *r, const dl_floats *f, const float *src, int64_t width,
                        const Activation *act, const dl_rows *dst, int64_t i,
                        float *scratch) noexcept nogil

# dst[width] += the sum over the experts of row t of their weight times their row of bias[E][width].
cdef void add_biases(const Routing *r, const float *bias, int64_t width, int64_t t,
                     float *dst) noexcept nogil


# A matmul of all entries with the matrices of their experts, which follow one another in memory.
cdef struct Experts:
    const Routing *routing
    Matmul job                      # the matmul of one expert
    int64_t expert_bytes
    const dl_rows *src              # [N][K]
    const dl_rows *hidden           # gated: [N][hidden]
    float *dst                      # gated with STORE: [N][ld]

# The sum of the down projections of a row's experts, and of an expert that all rows share. Their
# columns have segments of their own, as many and added in the same order. Either may be missing:
# then its w is NULL.
cdef struct ExpertsSum:
    Experts experts
    Matmul shared                   # src: [T][its hidden units]
    const float *factors            # [T], of the shared expert
    const dl_segment *leaves        # of the experts, without additions
    const dl_segment *shared_leaves # of the shared expert
    const dl_segment *order         # either, with additions
    int segments, then
    int64_t panels                  # of an item that has few rows
    float *dst                      # [sums][T][dim]
    int64_t dim, dst_stride         # dst_stride: floats from one sum to the next

cdef Experts gated_job(Routes routes, PackedMatrix matrix, const dl_rows *src,
                       const dl_rows *hidden, int then, int threads)
cdef int64_t gated_items(const Experts *x) noexcept nogil
cdef void gated_item(const Experts *x, int64_t i) noexcept nogil

# order: of the sum over columns. leaves: the same segments, without additions. They must outlive
# the job. ValueError unless they cover all columns of the matrix.
cdef int sum_experts(ExpertsSum *x, Routes routes, PackedMatrix matrix, const dl_rows *src,
                     Order order, Order leaves, int threads) except -1
cdef int sum_shared(ExpertsSum *x, PackedMatrix matrix, const dl_rows *src, const float *factors,
                    Order order, Order leaves, int threads) except -1
cdef int64_t sum_items(const ExpertsSum *x, int64_t T) noexcept nogil
# scratch: [sum_scratch].
cdef void sum_item(const ExpertsSum *x, int64_t T, int64_t i, float *scratch) noexcept nogil
# Panels of an item that has few rows, so that each thread has some items.
cdef int64_t sum_panels(const ExpertsSum *x, int threads)
cdef int64_t sum_scratch(const ExpertsSum *x, int64_t T)
