"""All-reduces over links.

The algorithms are those of Thakur et al. 2005 (Optimization of Collective Communication Operations
in MPICH). For few bytes, every node sends everything to all others (one latency). For many bytes, a
reduce-scatter is followed by an all-gather (two latencies, the fewest bytes). Both add in the same
order, that of dllama.graph.sum_tree. A node may send several sums, so that with float32 on the wire
the result has the bits of a single node.
"""

from libc.stdint cimport INT64_MAX

from dllama._kernels.comm.exchange cimport (
    MOST_NODES, begin_exchange, end_exchanges, transport_sum,
)
from dllama._kernels.comm.wire cimport DL_STRIP, dl_wire_bytes

# Most sums that wait to be added: the depth of the tree.
cdef enum:
    MOST_SUMS = 16

# Latency times bandwidth, in bytes, that AUTO assumes: Gigabit Ethernet's 80 microseconds at
# 117 MB/s. An exchange is faster while its extra bytes take less time than one latency.
cdef int64_t LATENCY_BYTES = 9400


cdef class Additions:
    """The order in which the sums of all nodes are added.

    Args:
        adds: by rank, the adds of each sum (dllama.graph.sum_tree.Summation).

    Raises:
        ValueError: the additions do not end in one sum, or too many sums wait.
    """

    def __cinit__(self, adds):
        cdef int64_t waiting = 0, sums = sum(map(len, adds))
        cdef int64_t *first
        cdef int32_t *add
        cdef int n
        self.world_size = len(adds)
        self._first = Memory((self.world_size + 1) * sizeof(int64_t))
        self._adds = Memory(max(1, sums) * sizeof(int32_t))
        first, add = <int64_t *> self._first.data, <int32_t *> self._adds.data
        first[0] = 0
        for own in adds:
            for n in own:
                if not 0 <= n <= waiting or waiting - n >= MOST_SUMS or sums > MOST_NODES:
                    raise ValueError(f"cannot add {n} of {waiting} waiting sums, {sums} in all")
                waiting += 1 - n
                add[0] = n
                add += 1
            first[1] = first[0] + len(own)
            first += 1
        if waiting != 1:
            raise ValueError(f"additions end in {waiting} sums, expected 1")

    cdef const int64_t *first_sums(self) noexcept:
        return <const int64_t *> self._first.data

    cdef const int32_t *adds(self) noexcept:
        return <const int32_t *> self._adds.data


cdef bint two_step(const AllReduce *a, int64_t T) noexcept nogil:
    cdef int64_t n = a.peers.world_size
    if a.algorithm != AUTO:
        return a.algorithm == TWO_STEP
    return T * a.offsets[n] > most_exchanged(n, a.first_sum[n])


cdef int64_t most_exchanged(int64_t n, int64_t sums) noexcept nogil:
    """Compare the bytes that a node sends in each algorithm.

    An exchange sends sums / n times the rows to each of n - 1 nodes. Two-step sends a chunk of
    them to each node, and then a chunk of the result.
    """
    cdef int64_t more = (n - 1) * (sums * (n - 1) - n)
    return LATENCY_BYTES * n * n // more if more > 0 else INT64_MAX


cdef inline bint _rounded(const AllReduce *a) noexcept nogil:
    """Whether an exchange rounds sums as a two-step all-reduce does.

    AUTO takes one or the other by the number of rows, on which no bits may depend.
    """
    cdef int64_t n = a.peers.world_size
    return a.algorithm == AUTO and most_exchanged(n, a.first_sum[n]) < INT64_MAX


cdef inline int64_t _width(const AllReduce *a, int chunk) noexcept nogil:
    return a.borders[chunk + 1] - a.borders[chunk]


cdef inline int64_t _row_bytes(const AllReduce *a, int chunk) noexcept nogil:
    """Bytes of a row of a chunk."""
    return a.offsets[chunk + 1] - a.offsets[chunk]


cdef inline uint8_t *_row(const AllReduce *a, uint8_t *base, int chunk, int64_t rows,
                          int64_t i) noexcept nogil:
    """Row i of a chunk, in a buffer of all chunks with `rows` rows each."""
    return base + rows * a.offsets[chunk] + i * _row_bytes(a, chunk)


cdef int64_t sums_of(const AllReduce *a, int rank) noexcept nogil:
    """How many sums a rank has."""
    return a.first_sum[rank + 1] - a.first_sum[rank]


cdef int64_t pack_items(const AllReduce *a, int64_t T) noexcept nogil:
    if a.algorithm == OF_TRANSPORT:
        return 0
    return T * sums_of(a, a.peers.rank) * a.peers.world_size


cdef void pack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    cdef int chunk = <int> (i % a.peers.world_size)
    cdef int64_t row = i // a.peers.world_size
    cdef const float *src = a.src + (row // T * a.sum_stride + row % T) * a.dim + a.borders[chunk]
    cdef uint8_t *dst = _row(a, a.packed, chunk, T * sums_of(a, a.peers.rank), row)
    cdef float *carry = NULL
    if a.carry != NULL:
        carry = a.carry + row * a.dim + a.borders[chunk]
    a.fns.pack(src, carry, a.begins, _width(a, chunk), a.wire, dst)


cdef inline uint8_t *_received(const AllReduce *a, int rank, int64_t T, bint chunked) noexcept nogil:
    """Where the sums of a rank arrive."""
    cdef int64_t row = _row_bytes(a, a.peers.rank) if chunked else a.offsets[a.peers.world_size]
    return a.received + a.first_sum[rank] * T * row


cdef int first_exchange(const AllReduce *a, int64_t T) noexcept nogil:
    if a.algorithm == OF_TRANSPORT:
        return transport_sum(a.peers, a.src if sums_of(a, a.peers.rank) else NULL,
                             <float *> a.received, T * a.dim)
    return begin_first(a, T) or end_exchange(a)


cdef int end_exchange(const AllReduce *a) noexcept nogil:
    return end_exchanges(a.peers, a.begun[0])


cdef int begin_first(const AllReduce *a, int64_t T) noexcept nogil:
    """Send everything to every node, or to each node its chunk."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int64_t rows = T * sums_of(a, a.peers.rank)
    cdef int r, n = a.peers.world_size
    cdef bint chunked = two_step(a, T)
    for r in range(n):
        out[r] = a.packed + (rows * a.offsets[r] if chunked else 0)
        out_bytes[r] = rows * (_row_bytes(a, r) if chunked else a.offsets[n])
        into[r] = _received(a, r, T, chunked)
        into_bytes[r] = T * sums_of(a, r) * (
            _row_bytes(a, a.peers.rank) if chunked else a.offsets[n])
    a.begun[0] = begin_exchange(a.peers, out, out_bytes, into, into_bytes)
    return -1 if a.begun[0] < 0 else 0


cdef int64_t reduce_items(const AllReduce *a, int64_t T) noexcept nogil:
    return T if two_step(a, T) else T * a.peers.world_size


cdef void reduce_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    """Add up a row of one chunk. The sum goes to dst or, in two-step, is encoded in `reduced`."""
    cdef bint chunked = two_step(a, T)
    cdef int chunk = a.peers.rank if chunked else <int> (i % a.peers.world_size)
    cdef int64_t t = i if chunked else i // a.peers.world_size
    cdef int64_t width = _width(a, chunk), begin = 0, count
    cdef const uint8_t *rows[MOST_NODES]
    cdef uint8_t *reduced = a.reduced + t * _row_bytes(a, chunk)
    cdef float sums[MOST_SUMS * DL_STRIP]
    cdef uint8_t strip[4 * DL_STRIP]
    cdef bint rounded = _rounded(a)
    cdef float *x = a.dst + t * a.dim + a.borders[chunk]
    cdef float *carry = NULL
    if a.algorithm == OF_TRANSPORT:
        a.fns.unpack(<float *> a.received + t * a.dim + a.borders[chunk], width, a.wire,
                     not a.store, x)
        return
    if a.carry != NULL and chunk == a.peers.rank:
        carry = a.carry + t * a.dim + a.borders[chunk]
    _find_rows(a, T, chunk, t, chunked, rows)
    while begin < width:
        count = min(DL_STRIP, width - begin)
        _sum(a, rows, dl_wire_bytes(a.wire, begin), count, sums)
        if chunked:
            a.fns.round(sums, carry, count, a.wire, reduced + dl_wire_bytes(a.wire, begin))
        else:
            if rounded:
                a.fns.round(sums, carry, count, a.wire, strip)
            a.fns.unpack(sums, count, a.wire, not a.store, x + begin)
        if carry != NULL:
            carry += count
        begin += count


cdef inline void _find_rows(const AllReduce *a, int64_t T, int chunk, int64_t t, bint chunked,
                            const uint8_t **rows) noexcept nogil:
    """rows[sums] = row t of a chunk of every sum of every node."""
    cdef int64_t p, q = 0
    cdef int r
    for r in range(a.peers.world_size):
        for p in range(sums_of(a, r)):
            if r == a.peers.rank:
                rows[q] = _row(a, a.packed, chunk, T * sums_of(a, r), p * T + t)
            elif chunked:
                rows[q] = _received(a, r, T, True) + (p * T + t) * _row_bytes(a, chunk)
            else:
                rows[q] = _row(a, _received(a, r, T, False), chunk, T * sums_of(a, r), p * T + t)
            q += 1


cdef inline void _sum(const AllReduce *a, const uint8_t *const *rows, int64_t skip, int64_t count,
                      float *sums) noexcept nogil:
    """sums[count] = sum of all rows from byte `skip` on. The rest of `sums` is used as a stack."""
    cdef int64_t q
    cdef int i
    cdef float *top = sums
    for q in range(a.first_sum[a.peers.world_size]):
        a.fns.decode(rows[q] + skip, count, a.wire, top)
        for i in range(a.adds[q]):
            _add(top - DL_STRIP, top, count)
            top -= DL_STRIP
        top += DL_STRIP


cdef inline void _add(float *x, const float *y, int64_t count) noexcept nogil:
    cdef int64_t i
    for i in range(count):
        x[i] += y[i]


cdef int second_exchange(const AllReduce *a, int64_t T) noexcept nogil:
    return begin_second(a, T) or end_exchange(a)


cdef int begin_second(const AllReduce *a, int64_t T) noexcept nogil:
    """Send the result of this node's chunk to all others."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int r
    for r in range(a.peers.world_size):
        out[r] = a.reduced
        out_bytes[r] = T * _row_bytes(a, a.peers.rank)
        into[r] = a.packed + T * a.offsets[r]
        into_bytes[r] = T * _row_bytes(a, r)
    a.begun[0] = begin_exchange(a.peers, out, out_bytes, into, into_bytes)
    return -1 if a.begun[0] < 0 else 0


cdef int64_t unpack_items(const AllReduce *a, int64_t T) noexcept nogil:
    return T * a.peers.world_size if two_step(a, T) else 0


cdef void unpack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    cdef int chunk = <int> (i % a.peers.world_size)
    cdef int64_t t = i // a.peers.world_size, width = _width(a, chunk), begin = 0, count
    cdef const uint8_t *row = _row(a, a.packed, chunk, T, t)
    cdef float *x = a.dst + t * a.dim + a.borders[chunk]
    cdef float strip[DL_STRIP]
    if chunk == a.peers.rank:
        row = a.reduced + t * _row_bytes(a, chunk)
    while begin < width:
        count = min(DL_STRIP, width - begin)
        a.fns.decode(row + dl_wire_bytes(a.wire, begin), count, a.wire, strip)
        a.fns.unpack(strip, count, a.wire, not a.store, x + begin)
        begin += count
