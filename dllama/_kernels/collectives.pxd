# Collectives of a group of nodes: sums and copies of activations, as jobs of the executor.
#
# n: nodes (world). T: tokens in the pass. Ranks are 0 to n - 1.

from libc.stdint cimport int32_t, int64_t, uint8_t

from dllama._kernels.broadcast cimport Broadcast
from dllama._kernels.memory cimport Memory
from dllama._kernels.quants cimport dl_quants
from dllama._kernels.swap cimport Peers


# Which messages an all-reduce sends.
cdef enum Algorithm:
    AUTO = 0
    EXCHANGE = 1                    # all of the vector to every node
    TWO_STEP = 2                    # reduce-scatter, then all-gather


# How many sums each node has for an all-reduce, and how all of them are added.
cdef class Additions:
    cdef Memory _parts, _adds
    cdef readonly int world

    cdef const int64_t *parts(self) noexcept
    cdef const int32_t *adds(self) noexcept


# dst[t] += (or = where it is stored) all sums of all nodes, added in the order of `adds`. The same
# bits come out on all nodes. Steps, with a barrier after each: pack items, first swap, reduce
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
    const int64_t *parts            # [n + 1]: sums of the nodes before each rank; its own are P
    const int32_t *adds             # [sums]: how many of those before are added after each
    uint8_t *packed                 # n slices, each of P * T rows; then of T rows
    uint8_t *received               # of each node its P * T rows of one or of all slices
    uint8_t *reduced                # T rows of this node's slice
    const float *src                # [P][part][dim], of which the first T
    int64_t part
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


# A group of nodes and the memory that its collectives use.
cdef class Group:
    cdef Peers peers
    cdef list _links                # keeps what peers points to
    cdef Memory _borders, _offsets, _packed, _received, _reduced
    cdef readonly int64_t dim, tokens
    cdef readonly int wire, algorithm
    cdef list _most_sums            # by rank, most sums of an all-reduce
    cdef int64_t _receives(self, int64_t n, int64_t row, int64_t widest)
    cdef int all_reduce_job(self, AllReduce *a, Additions additions, const float *src, int64_t part,
                            float *dst, bint store) except -1
    cdef Broadcast broadcast_job(self, float *x) noexcept
