"""Broadcasts of the root's rows: exact, in as few bytes as possible."""

from libc.string cimport memcmp

from dllama._kernels.ops.elementwise cimport dl_isa
from dllama._kernels.weight_types cimport (
    DL_SRC_F32, dl_quants, dl_quants_of, dl_type_bytes, dl_type_f16, dl_type_f32,
)
from dllama._kernels.comm.exchange cimport MOST_NODES, exchange

# Numbers checked at a time.
cdef enum:
    STRIP = 64


cdef int exact_encoding(const float *x, int64_t n) noexcept nogil:
    """The shortest encoding that represents all n numbers exactly."""
    cdef const dl_quants *codec = dl_quants_of(dl_isa())
    cdef const unsigned int *bits = <const unsigned int *> x
    cdef float back[STRIP]
    cdef uint8_t halves[2 * STRIP]
    cdef int64_t i, count
    cdef unsigned int low = 0
    for i in range(n):
        low |= bits[i] & 0xffff
    if low == 0:
        return AS_BRAIN
    i = 0
    while i < n:
        count = min(STRIP, n - i)
        codec.encode(x + i, DL_SRC_F32, count, dl_type_f16, halves)
        codec.decode(halves, dl_type_f16, count, back)
        if memcmp(back, x + i, count * sizeof(float)):
            return AS_FLOAT
        i += count
    return AS_HALF


cdef inline int _type(int encoding) noexcept nogil:
    """The weight type of an encoding, or for bfloat16 one of the same size."""
    return dl_type_f32 if encoding == AS_FLOAT else dl_type_f16


cdef void send_row(const Broadcast *b, int encoding, int64_t t) noexcept nogil:
    cdef const float *x = b.x + t * b.dim
    cdef uint8_t *row = b.packed + t * dl_type_bytes(_type(encoding), b.dim)
    cdef int64_t i
    if encoding == AS_BRAIN:
        for i in range(b.dim):
            (<unsigned short *> row)[i] = (<const unsigned int *> x)[i] >> 16
    else:
        dl_quants_of(dl_isa()).encode(x, DL_SRC_F32, b.dim, _type(encoding), row)


cdef void receive_row(const Broadcast *b, int encoding, int64_t t) noexcept nogil:
    cdef float *x = b.x + t * b.dim
    cdef const uint8_t *row = b.packed + t * dl_type_bytes(_type(encoding), b.dim)
    cdef int64_t i
    if encoding == AS_BRAIN:
        for i in range(b.dim):
            (<unsigned int *> x)[i] = (<const unsigned short *> row)[i] << 16
    else:
        dl_quants_of(dl_isa()).decode(row, _type(encoding), b.dim, x)


cdef int spread(const Broadcast *b, int encoding, int64_t T) noexcept nogil:
    """Scatter from the root, then all-gather among the others, so the root sends each byte once."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int64_t begin[MOST_NODES + 1]
    cdef int64_t total = T * dl_type_bytes(_type(encoding), b.dim)
    cdef int r, n = b.peers.world_size, me = b.peers.rank
    for r in range(n + 1):
        begin[r] = total * max(0, r - 1) // (n - 1)
    for r in range(n):
        out[r], out_bytes[r] = b.packed + begin[r], begin[r + 1] - begin[r] if me == 0 else 0
        into[r], into_bytes[r] = b.packed + begin[me], begin[me + 1] - begin[me] if r == 0 else 0
    if exchange(b.peers, out, out_bytes, into, into_bytes):
        return -1
    if me == 0 or n == 2:
        return 0
    for r in range(n):
        out[r], out_bytes[r] = b.packed + begin[me], begin[me + 1] - begin[me] if r else 0
        into[r], into_bytes[r] = b.packed + begin[r], begin[r + 1] - begin[r] if r else 0
    return exchange(b.peers, out, out_bytes, into, into_bytes)
