# All-reduce: every node gets the sum of the rows of all nodes. Stages of independent items.
#
# n: nodes, with ranks 0 to n - 1. T: rows of the batch. P: sums of a node. A chunk is the columns
# that one rank reduces.

from libc.stdint cimport int32_t, int64_t, uint8_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.comm.exchange cimport Peers
from dllama._kernels.comm.wire cimport dl_wire_fns


# Which messages an all-reduce sends.
cdef enum Algorithm:
    AUTO = 0                        # the faster one for the size
    EXCHANGE = 1                    # every node sends all of its rows to every other
    TWO_STEP = 2                    # reduce-scatter, then all-gather
    OF_TRANSPORT = 3                # that of the transport itself: float32, one sum of each node


# How many sums each node has for an all-reduce, and how all of them are added.
cdef class Additions:
    cdef Memory _first, _adds
    cdef readonly int world_size

    cdef const int64_t *first_sums(self) noexcept
    cdef const int32_t *adds(self) noexcept


# dst[t] += (with store: =) all sums of all nodes, added in the order of `adds`. The result has the
# same bits on all nodes.
#
# Where short numbers are sent, `carry` keeps what rounding has taken from a row, and the next
# all-reduce of the pass adds it to what it sends (error feedback, Seide et al. 2014). So errors do
# not add up over layers. What rounding takes from a sum is carried by the node whose chunk it is in.
# Stages, one after the other: pack items, first exchange, reduce
# items, second exchange (only if two_step), unpack items. An exchange may begin earlier than its end
# is waited for.
cdef struct AllReduce:
    Peers *peers
    const dl_wire_fns *fns
    int wire                        # form of the numbers sent
    int algorithm
    bint store                      # dst[t] = the sum, instead of +=
    int64_t dim
    const int64_t *borders          # [n + 1]: columns before the chunk of each rank
    const int64_t *offsets          # [n + 1]: bytes of a row before the chunk of each rank
    const int64_t *first_sum        # [n + 1]: sums of all lower ranks
    const int32_t *adds             # [sums]: how many of the sums before it are added to each sum
    uint8_t *packed                 # n chunks of P * T rows; for the second exchange of T rows
    uint8_t *received               # from each node P * T rows, of one chunk or of all
    uint8_t *reduced                # T rows of this node's chunk
    const float *src                # [P][sum_stride][dim]; the first T rows of each sum are used
    int64_t sum_stride              # rows from one sum of this node to the next
    float *dst                      # [T][dim]
    float *carry                    # [T][dim]; NULL: nothing is carried
    bint begins                     # the pass has carried nothing before
    int64_t *begun                  # exchanges that have ended when the last one of this memory has

# Bytes of all rows up to which an exchange is faster than two-step, for n nodes with `sums` in all.
cdef int64_t most_exchanged(int64_t n, int64_t sums) noexcept nogil
cdef int64_t sums_of(const AllReduce *a, int rank) noexcept nogil
cdef bint two_step(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t pack_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void pack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
cdef int begin_first(const AllReduce *a, int64_t T) noexcept nogil
cdef int first_exchange(const AllReduce *a, int64_t T) noexcept nogil
cdef int64_t reduce_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void reduce_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
cdef int begin_second(const AllReduce *a, int64_t T) noexcept nogil
cdef int second_exchange(const AllReduce *a, int64_t T) noexcept nogil
cdef int end_exchange(const AllReduce *a) noexcept nogil
cdef int64_t unpack_items(const AllReduce *a, int64_t T) noexcept nogil
cdef void unpack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil
