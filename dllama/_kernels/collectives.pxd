# Collectives of a group of nodes: sums and copies of activations, as jobs of the executor.
#
# n: nodes (world). T: tokens in the pass. Ranks are 0 to n - 1.

from libc.stdint cimport int64_t, uint8_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.swap cimport Peers


cdef extern from "simd/quants.h" nogil:
    ctypedef struct dl_quants:
        int (*encode)(const void *src, int src_type, int64_t n, int type, uint8_t *dst) noexcept nogil
        void (*decode)(const uint8_t *src, int type, int64_t n, float *dst) noexcept nogil
    const dl_quants *dl_quants_of(int isa)


# Which messages an all-reduce sends.
cdef enum Algorithm:
    AUTO = 0
    EXCHANGE = 1                    # all of the vector to every node
    TWO_STEP = 2                    # reduce-scatter, then all-gather


# dst[t] += (or = where it is stored) the sum over all nodes of src[t], in the order of a binary tree over the ranks. The
# same bits come out on all nodes. Steps, with a barrier after each: pack items, first swap, reduce
# items, second swap, unpack items.
cdef struct AllReduce:
    Peers *peers
    const dl_quants *codec
    int wire                        # float type of what travels
    int algorithm
    bint store                      # dst[t] = the sum, instead of +=
    int64_t dim
    const int64_t *borders          # [n + 1]: columns of the slice of each rank
    const int64_t *offsets          # [n + 1]: bytes before the slice of each rank, for one token
    uint8_t *packed                 # n slices, each of T rows
    uint8_t *received               # n times what one node sends
    const float *src                # [T][dim]
    float *dst                      # [T][dim]

cdef bint two_step(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t pack_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void pack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
cdef int first_swap(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t reduce_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void reduce_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
cdef int second_swap(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t unpack_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void unpack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil


# x[t] of all nodes = x[t] of the root, exactly. half: all of it fits into bfloat16 or
# float16, which then travels. Steps: pack items (at the root), swap, unpack items (elsewhere).
cdef struct Broadcast:
    Peers *peers
    int64_t dim
    uint8_t *packed                 # [T][dim] of 2 or 4 bytes
    float *x                        # [T][dim]

cdef enum Exact:
    AS_FLOAT = 0
    AS_HALF = 1                     # IEEE float16
    AS_BRAIN = 2                    # bfloat16

cdef int exact_form(const float *x, int64_t n) noexcept nogil
cdef void send_row(const Broadcast *b, int form, int64_t t) noexcept nogil
cdef void receive_row(const Broadcast *b, int form, int64_t t) noexcept nogil
cdef int spread(const Broadcast *b, int form, int64_t T) noexcept nogil


# A group of nodes and the memory that its collectives use.
cdef class Group:
    cdef Peers peers
    cdef list _links                # keeps what peers points to
    cdef Memory _borders, _offsets, _packed, _received
    cdef readonly int64_t dim, tokens
    cdef readonly int wire, algorithm
    cdef int64_t _receives(self, int n, const int64_t *offsets)
    cdef AllReduce all_reduce_job(self, const float *src, float *dst) noexcept
    cdef Broadcast broadcast_job(self, float *x) noexcept
