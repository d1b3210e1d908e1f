"""All-reduce and broadcast over links.

Thakur et al. 2005 (Optimization of Collective Communication Operations in MPICH) has the
algorithms: for few bytes every node sends all of its vector to all others (one latency); for many
a reduce-scatter followed by an all-gather (two latencies, and the fewest bytes). Both add in the
same order, which dllama.summation plans: a node may have several sums, each of which travels,
so that with float32 on the wire the result has the bits of one node that has them all.
"""

from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy

from dllama._kernels.broadcast cimport AS_FLOAT, exact_form, receive_row, send_row, spread
from dllama._kernels.elementwise cimport dl_isa
from dllama._kernels.link cimport Link, failure
from dllama._kernels.quants cimport dl_quants_of
from dllama._kernels.swap cimport MOST_NODES, Failure, swap

from dllama.errors import ConfigError
from dllama.summation import over_ranks


cdef extern from "errno.h" nogil:
    int ECANCELED

# Columns that reduce adds at a time, whole blocks.
cdef enum:
    STRIP = 64

# Sums that wait to be added: the depth of the tree.
cdef enum:
    MOST_SUMS = 16

# Latency times bandwidth of the links that AUTO is made for, in bytes: Gigabit Ethernet's 80
# microseconds at 117 MB/s. An exchange pays while its extra bytes take less than one latency.
cdef int64_t LATENCY_BYTES = 9400

ALGORITHMS = {"auto": AUTO, "exchange": EXCHANGE, "two-step": TWO_STEP}


cdef bint two_step(const AllReduce *a, int64_t T) noexcept nogil:
    cdef int64_t n = a.peers.world
    if a.algorithm != AUTO:
        return a.algorithm == TWO_STEP
    return T * a.offsets[n] > _most_exchanged(n, a.parts[n])


cdef inline int64_t _most_exchanged(int64_t n, int64_t sums) noexcept nogil:
    """Bytes of a vector up to which an exchange of all sums of n nodes is the faster one.

    A node sends sums / n vectors: to n - 1 others, or a slice of each and then of the result.
    """
    cdef int64_t more = (n - 1) * (sums * (n - 1) - n)
    return LATENCY_BYTES * n * n // more if more > 0 else INT64_MAX


cdef inline int64_t _bytes(int wire, int64_t count) noexcept nogil:
    """Bytes of count numbers on the wire; whole blocks for q80."""
    if wire == 0:
        return 4 * count
    return 2 * count if wire == 1 else count // 32 * 34


cdef inline int64_t _width(const AllReduce *a, int slice) noexcept nogil:
    return a.borders[slice + 1] - a.borders[slice]


cdef inline int64_t _size(const AllReduce *a, int slice) noexcept nogil:
    """Bytes of one row of a slice."""
    return a.offsets[slice + 1] - a.offsets[slice]


cdef inline uint8_t *_row(const AllReduce *a, uint8_t *base, int slice, int64_t rows,
                          int64_t i) noexcept nogil:
    """Row i of a slice in n slices of so many rows."""
    return base + rows * a.offsets[slice] + i * _size(a, slice)


cdef inline int64_t _sums(const AllReduce *a, int rank) noexcept nogil:
    """How many sums a node has."""
    return a.parts[rank + 1] - a.parts[rank]


cdef int64_t pack_items(const AllReduce *a, int64_t T) noexcept nogil:
    return T * _sums(a, a.peers.rank) * a.peers.world


cdef void pack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    cdef int slice = <int> (i % a.peers.world)
    cdef int64_t row = i // a.peers.world
    cdef const float *src = a.src + (row // T * a.part + row % T) * a.dim
    a.codec.encode(src + a.borders[slice], 0, _width(a, slice), a.wire,
                   _row(a, a.packed, slice, T * _sums(a, a.peers.rank), row))


cdef inline uint8_t *_received(const AllReduce *a, int rank, int64_t T, bint slices) noexcept nogil:
    """Where the sums of a node arrive."""
    cdef int64_t row = _size(a, a.peers.rank) if slices else a.offsets[a.peers.world]
    return a.received + a.parts[rank] * T * row


cdef int first_swap(const AllReduce *a, int64_t T) noexcept nogil:
    """All of it to every node, or to each its slice."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int64_t rows = T * _sums(a, a.peers.rank)
    cdef int r, n = a.peers.world
    cdef bint slices = two_step(a, T)
    for r in range(n):
        out[r] = a.packed + (rows * a.offsets[r] if slices else 0)
        out_bytes[r] = rows * (_size(a, r) if slices else a.offsets[n])
        into[r] = _received(a, r, T, slices)
        into_bytes[r] = T * _sums(a, r) * (_size(a, a.peers.rank) if slices else a.offsets[n])
    return swap(a.peers, out, out_bytes, into, into_bytes)


cdef int64_t reduce_items(const AllReduce *a, int64_t T) noexcept nogil:
    return T if two_step(a, T) else T * a.peers.world


cdef void reduce_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    """Add up a row of one slice; the sum is added to dst, or becomes what travels next."""
    cdef bint slices = two_step(a, T)
    cdef int slice = a.peers.rank if slices else <int> (i % a.peers.world)
    cdef int64_t t = i if slices else i // a.peers.world
    cdef int64_t width = _width(a, slice), begin = 0, count
    cdef const uint8_t *rows[MOST_NODES]
    cdef uint8_t *reduced = a.reduced + t * _size(a, slice)
    cdef float sums[MOST_SUMS * STRIP]
    cdef float *x = a.dst + t * a.dim + a.borders[slice]
    _find_rows(a, T, slice, t, slices, rows)
    while begin < width:
        count = min(STRIP, width - begin)
        _sum(a, rows, _bytes(a.wire, begin), count, sums)
        if slices:
            a.codec.encode(sums, 0, count, a.wire, reduced + _bytes(a.wire, begin))
        else:
            _put(a, x + begin, sums, count)
        begin += count


cdef inline void _find_rows(const AllReduce *a, int64_t T, int slice, int64_t t, bint slices,
                            const uint8_t **rows) noexcept nogil:
    """Row t of a slice of every sum of every node."""
    cdef int64_t p, q = 0
    cdef int r
    for r in range(a.peers.world):
        for p in range(_sums(a, r)):
            if r == a.peers.rank:
                rows[q] = _row(a, a.packed, slice, T * _sums(a, r), p * T + t)
            elif slices:
                rows[q] = _received(a, r, T, True) + (p * T + t) * _size(a, slice)
            else:
                rows[q] = _row(a, _received(a, r, T, False), slice, T * _sums(a, r), p * T + t)
            q += 1


cdef inline void _sum(const AllReduce *a, const uint8_t *const *rows, int64_t skip, int64_t count,
                      float *sums) noexcept nogil:
    """Sum of some numbers of all rows, in the first strip of sums; the others are a stack."""
    cdef int64_t q
    cdef int i
    cdef float *top = sums
    for q in range(a.parts[a.peers.world]):
        a.codec.decode(rows[q] + skip, a.wire, count, top)
        for i in range(a.adds[q]):
            _add(top - STRIP, top, count)
            top -= STRIP
        top += STRIP


cdef inline void _put(const AllReduce *a, float *x, const float *sums, int64_t count) noexcept nogil:
    if a.store:
        memcpy(x, sums, count * sizeof(float))
    else:
        _add(x, sums, count)


cdef inline void _add(float *x, const float *y, int64_t count) noexcept nogil:
    cdef int64_t i
    for i in range(count):
        x[i] += y[i]


cdef int second_swap(const AllReduce *a, int64_t T) noexcept nogil:
    """The sums of this node's slice to all others."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int r
    for r in range(a.peers.world):
        out[r] = a.reduced
        out_bytes[r] = T * _size(a, a.peers.rank)
        into[r] = a.packed + T * a.offsets[r]
        into_bytes[r] = T * _size(a, r)
    return swap(a.peers, out, out_bytes, into, into_bytes)


cdef int64_t unpack_items(const AllReduce *a, int64_t T) noexcept nogil:
    return T * a.peers.world if two_step(a, T) else 0


cdef void unpack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    cdef int slice = <int> (i % a.peers.world)
    cdef int64_t t = i // a.peers.world, width = _width(a, slice), begin = 0, count
    cdef const uint8_t *row = _row(a, a.packed, slice, T, t)
    cdef float *x = a.dst + t * a.dim + a.borders[slice]
    cdef float strip[STRIP]
    if slice == a.peers.rank:
        row = a.reduced + t * _size(a, slice)
    while begin < width:
        count = min(STRIP, width - begin)
        a.codec.decode(row + _bytes(a.wire, begin), a.wire, count, strip)
        _put(a, x + begin, strip, count)
        begin += count


cdef class Additions:
    """How all nodes' sums are added: adds of each sum by rank (dllama.summation.Summation).

    ValueError unless they come to one sum.
    """

    def __cinit__(self, adds):
        cdef int64_t waiting = 0, sums = sum(map(len, adds))
        cdef int64_t *part
        cdef int32_t *add
        cdef int n
        self.world = len(adds)
        self._parts = Memory((self.world + 1) * sizeof(int64_t))
        self._adds = Memory(max(1, sums) * sizeof(int32_t))
        part, add = <int64_t *> self._parts.data, <int32_t *> self._adds.data
        part[0] = 0
        for own in adds:
            for n in own:
                if not 0 <= n <= waiting or waiting - n >= MOST_SUMS or sums > MOST_NODES:
                    raise ValueError(f"no sum is added to {n} of {waiting} of {sums}")
                waiting += 1 - n
                add[0] = n
                add += 1
            part[1] = part[0] + len(own)
            part += 1
        if waiting != 1:
            raise ValueError(f"additions end in {waiting} sums, expected 1")

    cdef const int64_t *parts(self) noexcept:
        return <const int64_t *> self._parts.data

    cdef const int32_t *adds(self) noexcept:
        return <const int32_t *> self._adds.data


cdef class Group:
    """This node's links to all others, and room for collectives of `tokens` rows of dim numbers.

    links: one per rank, None at this node's own; they are all of one transport. watched: control
    links by rank; a swap is given up when one ends. sums: by rank, most sums that a node has for
    an all-reduce, without it one.
    wire: float type of what all-reduces send (0 f32, 1 f16, 3 q80). algorithm: auto, exchange or
    two-step. timeout: seconds without a byte. ConfigError where q80 does not divide dim.
    """

    def __init__(self, list links, int rank, *, int64_t dim, int64_t tokens, int wire,
                 str algorithm="auto", double timeout=5.0, dict watched=None, sums=None):
        cdef int n = len(links), r
        if not 2 <= n <= MOST_NODES or links[rank] is not None:
            raise ConfigError(f"a group has 2 to {MOST_NODES} nodes, found {n}")
        if wire == 3 and dim % 32:
            raise ConfigError(f"buffer is q80, but rows of {dim} numbers are not blocks of 32")
        watched = watched or {}
        self._links = [links, watched]
        self._most_sums = [1] * n if sums is None else list(sums)
        self.dim, self.tokens, self.wire = dim, tokens, wire
        self.algorithm = ALGORITHMS[algorithm]
        self.peers.world, self.peers.rank = n, rank
        self.peers.patience = <int64_t> (timeout * 1e9)
        for r in range(n):
            self.peers.links[r] = NULL if r == rank else &(<Link?> links[r]).hot
        for r in watched:
            self.peers.watched[self.peers.n_watched] = &(<Link?> watched[r]).hot
            self.peers.watched_ranks[self.peers.n_watched] = r
            self.peers.n_watched += 1
        self._allocate(n)

    def _allocate(self, int n):
        """Cut dim into n slices of whole blocks, and make room for messages."""
        cdef int64_t blocks = (self.dim + 31) // 32, most, widest = 0
        cdef int64_t *borders
        cdef int64_t *offsets
        cdef int r
        self._borders, self._offsets = Memory((n + 1) * 8), Memory((n + 1) * 8)
        borders, offsets = <int64_t *> self._borders.data, <int64_t *> self._offsets.data
        for r in range(n + 1):
            borders[r] = min(self.dim, (blocks * r + n - 1) // n * 32)
            offsets[r] = _bytes(self.wire, borders[r])
            widest = max(widest, offsets[r] - offsets[r - 1] if r else 0)
        most = max(1, self._most_sums[self.peers.rank]) * offsets[n]
        most = max(most, 4 * self.dim)  # a broadcast uses the same room
        self._packed = Memory(self.tokens * most)
        self._received = Memory(self._receives(n, offsets[n], widest))
        self._reduced = Memory(self.tokens * widest)

    cdef int64_t _receives(self, int64_t n, int64_t row, int64_t widest):
        """Most bytes of a first swap, in which a row has so many bytes, and slices of it."""
        cdef int64_t total = sum(self._most_sums), most = 0, sums
        if self.algorithm != EXCHANGE:
            most = total * self.tokens * widest
        if self.algorithm != TWO_STEP:
            for sums in range(1, total + 1):
                limit = INT64_MAX if self.algorithm == EXCHANGE else _most_exchanged(n, sums)
                most = max(most, sums * min(self.tokens * row, limit))
        return most

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self._borders.nbytes + self._offsets.nbytes + self._packed.nbytes \
            + self._received.nbytes + self._reduced.nbytes

    @property
    def world(self):
        """Number of nodes."""
        return self.peers.world

    @property
    def rank(self):
        """This node's number."""
        return self.peers.rank

    @property
    def failed(self):
        """Whether a collective failed."""
        return self.peers.failure.error != 0

    @property
    def failed_rank(self):
        """The node that the first failure blames."""
        return self.peers.failure.rank if self.failed else None

    def check(self):
        """Raise the first failure of a collective, if there was one."""
        cdef Failure f = self.peers.failure
        if f.error == 0:
            return
        links, watched = self._links
        link = links[f.rank] if f.error != -ECANCELED else watched[f.rank]
        raise failure(f.error, "sending to" if f.sending else "receiving from", link.peer,
                      self.peers.patience / 1e9)

    def traffic(self):
        """Bytes sent and received over the links of the group so far."""
        cdef int64_t sent = 0, received = 0
        cdef int r
        for r in range(self.peers.world):
            if r != self.peers.rank:
                sent += self.peers.links[r].sent
                received += self.peers.links[r].received
        return sent, received

    def form_of(self, const float[:, ::1] x):
        """The form in which a broadcast sends rows exactly, float32 (T, dim)."""
        return exact_form(&x[0, 0], x.shape[0] * x.shape[1])

    cdef int all_reduce_job(self, AllReduce *a, Additions additions, const float *src, int64_t part,
                            float *dst, bint store) except -1:
        """dst += (or = with store) the sums of all nodes; this node's are `part` rows apart."""
        cdef int r
        a.parts, a.adds = additions.parts(), additions.adds()
        if additions.world != self.peers.world or any(
                a.parts[r + 1] - a.parts[r] > self._most_sums[r] for r in range(self.peers.world)):
            raise ValueError("additions of a group of other nodes")
        a.peers, a.codec, a.wire = &self.peers, dl_quants_of(dl_isa()), self.wire
        a.algorithm, a.store, a.dim = self.algorithm, store, self.dim
        a.src, a.part, a.dst = src, part, dst
        a.borders = <int64_t *> self._borders.data
        a.offsets = <int64_t *> self._offsets.data
        a.packed, a.received = <uint8_t *> self._packed.data, <uint8_t *> self._received.data
        a.reduced = <uint8_t *> self._reduced.data
        return 0

    cdef Broadcast broadcast_job(self, float *x) noexcept:
        cdef Broadcast b
        b.peers, b.dim, b.packed, b.x = &self.peers, self.dim, <uint8_t *> self._packed.data, x
        return b

    def all_reduce(self, const float[:, ::1] src, float[:, ::1] dst, adds=None):
        """dst += all sums of all nodes; float32 (T, dim). TransportError.

        src: float32 (sums of this node * T, dim). adds: how sums are added, by rank
        (dllama.summation.Summation); without it every node has one.
        """
        cdef int64_t T = dst.shape[0], i
        cdef Additions additions = Additions(adds or over_ranks([True] * self.peers.world))
        cdef AllReduce a
        cdef int failed = 0
        self._check_rows(dst.shape[0], dst.shape[1])
        self.all_reduce_job(&a, additions, &src[0, 0] if src.shape[0] else NULL, T, &dst[0, 0], False)
        if src.shape[0] != T * _sums(&a, self.peers.rank) or src.shape[1] != self.dim:
            raise ValueError(f"{src.shape[0]} x {src.shape[1]} numbers are not this node's sums")
        with nogil:
            for i in range(pack_items(&a, T)):
                pack_item(&a, T, i)
            failed = first_swap(&a, T)
            if not failed:
                for i in range(reduce_items(&a, T)):
                    reduce_item(&a, T, i)
                if two_step(&a, T):
                    failed = second_swap(&a, T)
            if not failed:
                for i in range(unpack_items(&a, T)):
                    unpack_item(&a, T, i)
        self.check()

    def broadcast(self, float[:, ::1] x, int form=AS_FLOAT):
        """x = x of rank 0; float32 (T, dim), whose form all nodes know. TransportError."""
        cdef int64_t T = x.shape[0], t
        self._check_rows(x.shape[0], x.shape[1])
        cdef Broadcast b = self.broadcast_job(&x[0, 0])
        if self.peers.rank == 0:
            for t in range(T):
                send_row(&b, form, t)
        with nogil:
            spread(&b, form, T)
        self.check()
        if self.peers.rank:
            for t in range(T):
                receive_row(&b, form, t)

    def _check_rows(self, int64_t tokens, int64_t dim):
        if not 1 <= tokens <= self.tokens or dim != self.dim:
            raise ValueError(f"{tokens} x {dim} numbers, expected up to {self.tokens} x {self.dim}")
