# The sum of all nodes' rows on all nodes, in stages of independent items.
#
# n: nodes. T: rows of the batch. Ranks are 0 to n - 1. A chunk is the columns that one rank reduces.

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
    cdef Memory _first, _adds
    cdef readonly int world_size

    cdef const int64_t *first_sums(self) noexcept
    cdef const int32_t *adds(self) noexcept


# dst[t] += (or = where it is stored) all sums of all nodes, added in the order of `adds`. The same
# bits come out on all nodes. Stages, with a barrier after each: pack items, first exchange, reduce
# items, second exchange, unpack items.
cdef struct AllReduce:
    Peers *peers
    const dl_quants *codec
    int wire                        # weight type of what travels
    int algorithm
    bint store                      # dst[t] = the sum, instead of +=
    int64_t dim
    const int64_t *borders          # [n + 1]: columns before the chunk that each rank reduces
    const int64_t *offsets          # [n + 1]: bytes before that chunk, for one row
    const int64_t *first_sum        # [n + 1]: sums of the nodes before each rank; its own are P
    const int32_t *adds             # [sums]: how many of those before are added after each
    uint8_t *packed                 # n chunks, each of P * T rows; then of T rows
    uint8_t *received               # of each node its P * T rows of one or of all chunks
    uint8_t *reduced                # T rows of this node's chunk
    const float *src                # [P][sum_step][dim], of which the first T rows each
    int64_t sum_step                # rows from one sum of this node to the next
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
