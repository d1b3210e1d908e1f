# The rows of the root on all nodes, in stages of independent items.

from libc.stdint cimport int64_t, uint8_t

from dllama._kernels.comm.exchange cimport Peers


# x[t] of all nodes = x[t] of the root, exactly. Where all of it fits into bfloat16 or float16,
# that travels. Stages: send rows (at the root), spread, receive rows (elsewhere).
cdef struct Broadcast:
    Peers *peers
    int64_t dim
    uint8_t *packed                 # [T][dim] of 2 or 4 bytes
    float *x                        # [T][dim]

# How rows travel.
cdef enum Encoding:
    AS_FLOAT = 0
    AS_HALF = 1                     # IEEE float16
    AS_BRAIN = 2                    # bfloat16

cdef int exact_encoding(const float *x, int64_t n) noexcept nogil
cdef void send_row(const Broadcast *b, int encoding, int64_t t) noexcept nogil
cdef void receive_row(const Broadcast *b, int encoding, int64_t t) noexcept nogil
cdef int spread(const Broadcast *b, int encoding, int64_t T) noexcept nogil
