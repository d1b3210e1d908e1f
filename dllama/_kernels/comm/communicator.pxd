# A communicator: the links to all other nodes, and what its collectives share.

from libc.stdint cimport int64_t

from dllama._kernels.comm.allreduce cimport Additions, AllReduce
from dllama._kernels.comm.broadcast cimport Broadcast
from dllama._kernels.memory cimport Memory
from dllama._kernels.comm.exchange cimport Peers


# Links to all other nodes, and memory for messages.
cdef class Communicator:
    cdef Peers peers
    cdef list _links                # keeps alive what peers points to
    cdef Memory _borders, _offsets, _packed, _received, _reduced, _carry
    cdef readonly int64_t dim, max_rows
    cdef readonly int wire, algorithm
    cdef list _most_sums            # by rank, most sums in an all-reduce
    cdef int64_t _most, _widest     # bytes of a row: most that are packed, those of the widest chunk
    cdef int64_t _begun[2]          # of all rows or the first half; of the second half
    cdef int64_t _receives(self, int64_t rows)
    # Set up an all-reduce that carries nothing. ValueError if the additions are of other nodes.
    # first: 0, or the rows of the first half (halves.pxd), whose memory is then left alone.
    cdef int all_reduce_job(self, AllReduce *a, Additions additions, const float *src,
                            int64_t sum_stride, float *dst, bint store, int64_t first=*) except -1
    # What all-reduces of a pass carry, [max_rows][dim]; NULL if they send float32.
    cdef float *carry(self) except? NULL
    # Set up a broadcast of x [T][dim].
    cdef Broadcast broadcast_job(self, float *x, int64_t dim, int64_t first=*) noexcept
