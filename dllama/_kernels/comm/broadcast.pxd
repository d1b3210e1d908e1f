# Broadcast: every node gets the rows of the root. Stages of independent items.

from libc.stdint cimport int64_t, uint8_t

from dllama._kernels.comm.exchange cimport Peers


# x[t] on all nodes = x[t] of the root, exactly. Rows are sent as bfloat16 or float16 if that is
# exact. Stages: send rows (on the root), spread, receive rows (on the others).
cdef struct Broadcast:
    Peers *peers
    int64_t dim
    uint8_t *packed                 # [T][dim] of 2 or 4 bytes
    float *x                        # [T][dim]

# How rows are sent.
cdef enum Encoding:
    AS_FLOAT = 0
    AS_HALF = 1                     # IEEE float16
    AS_BRAIN = 2                    # bfloat16 ("brain float")

cdef int exact_encoding(const float *x, int64_t n) noexcept nogil
cdef void send_row(const Broadcast *b, int encoding, int64_t t) noexcept nogil
cdef void receive_row(const Broadcast *b, int encoding, int64_t t) noexcept nogil
cdef int spread(const Broadcast *b, int encoding, int64_t T) noexcept nogil
