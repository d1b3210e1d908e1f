# Sums of all nodes' rows on all nodes, as a job of the executor.
#
# n: nodes (world). T: tokens in the pass. Ranks are 0 to n - 1.

from libc.stdint cimport int32_t, int64_t, uint8_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.weight_types cimport dl_quants
from dllama._kernels.comm.exchange cimport Peers


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
# bits come out on all nodes. Steps, with a barrier after each: pack items, first exchange, reduce
# items, second exchange, unpack items.
cdef struct AllReduce:
    Peers *peers
    const dl_quants *codec
    int wire                        # weight type of what travels
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

# Bytes of a vector up to which an exchange of all sums of n nodes is the faster one.
cdef int64_t most_exchanged(int64_t n, int64_t sums) noexcept nogil
cdef int64_t sums_of(const AllReduce *a, int rank) noexcept nogil
cdef bint two_step(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t pack_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void pack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
cdef int first_exchange(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t reduce_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void reduce_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
cdef int second_exchange(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t unpack_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void unpack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
