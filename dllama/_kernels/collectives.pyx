"""All-reduce and broadcast over links.

Thakur et al. 2005 (Optimization of Collective Communication Operations in MPICH) has the
algorithms: for few bytes every node sends all of its vector to all others (one latency); for many
a reduce-scatter followed by an all-gather (two latencies, and the fewest bytes). Both add
in the same order, a binary tree over the ranks, so that with float32 on the wire they give the
same bits, and the same as one node that adds the same parts.
"""

from libc.string cimport memcmp, memcpy

from dllama._kernels.elementwise cimport dl_isa
from dllama._kernels.link cimport Link, failure
from dllama._kernels.swap cimport MOST_NODES, Failure, swap

from dllama.errors import ConfigError


cdef extern from "errno.h" nogil:
    int ECANCELED

# Columns that reduce adds at a time, whole blocks.
cdef enum:
    STRIP = 64

# Latency times bandwidth of the links that AUTO is made for, in bytes: Gigabit Ethernet's 80
# microseconds at 117 MB/s. An exchange pays while its extra bytes take less than one latency.
cdef int64_t LATENCY_BYTES = 9400

ALGORITHMS = {"auto": AUTO, "exchange": EXCHANGE, "two-step": TWO_STEP}


cdef bint two_step(const AllReduce *a, int64_t T) noexcept nogil:
    cdef int64_t n = a.peers.world
    if a.algorithm != AUTO:
        return a.algorithm == TWO_STEP
    return n > 2 and T * a.offsets[n] > _most_exchanged(n)


cdef inline int64_t _most_exchanged(int64_t n) noexcept nogil:
    """Bytes of a vector up to which an exchange between n > 2 nodes is the faster one."""
    return LATENCY_BYTES * n // ((n - 1) * (n - 2))


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


cdef inline uint8_t *_row(const AllReduce *a, uint8_t *base, int slice, int64_t T,
                          int64_t t) noexcept nogil:
    """Row t of a slice in n slices of T rows."""
    return base + T * a.offsets[slice] + t * _size(a, slice)


cdef int64_t pack_items(const AllReduce *a, int64_t T) noexcept nogil:
    return T * a.peers.world


cdef void pack_item(const AllReduce *a, int64_t T, int64_t i) noexcept nogil:
    cdef int slice = <int> (i % a.peers.world)
    cdef int64_t t = i // a.peers.world
    a.codec.encode(a.src + t * a.dim + a.borders[slice], 0, _width(a, slice), a.wire,
                   _row(a, a.packed, slice, T, t))


cdef int first_swap(const AllReduce *a, int64_t T) noexcept nogil:
    """All of it to every node, or to each its slice."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int r, n = a.peers.world
    cdef bint slices = two_step(a, T)
    for r in range(n):
        out[r] = a.packed + (T * a.offsets[r] if slices else 0)
        out_bytes[r] = T * (_size(a, r) if slices else a.offsets[n])
        into_bytes[r] = T * (_size(a, a.peers.rank) if slices else a.offsets[n])
        into[r] = a.received + r * into_bytes[r]
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
    cdef uint8_t *own = _row(a, a.packed, slice, T, t)
    cdef float sums[MOST_NODES * STRIP]
    cdef float *x = a.dst + t * a.dim + a.borders[slice]
    cdef int r
    for r in range(a.peers.world):
        if slices:
            rows[r] = a.received + (r * T + t) * _size(a, slice)
        else:
            rows[r] = _row(a, a.received + r * T * a.offsets[a.peers.world], slice, T, t)
    rows[a.peers.rank] = own
    while begin < width:
        count = min(STRIP, width - begin)
        _sum(a, rows, _bytes(a.wire, begin), count, sums)
        if slices:
            a.codec.encode(sums, 0, count, a.wire, own + _bytes(a.wire, begin))
        else:
            _put(a, x + begin, sums, count)
        begin += count


cdef inline void _sum(const AllReduce *a, const uint8_t *const *rows, int64_t skip, int64_t count,
                      float *sums) noexcept nogil:
    """Sum of all nodes' numbers, as a binary tree over the ranks; the first strip of sums has it."""
    cdef int r, step = 1, n = a.peers.world
    for r in range(n):
        a.codec.decode(rows[r] + skip, a.wire, count, sums + r * STRIP)
    while step < n:
        r = 0
        while r + step < n:
            _add(sums + r * STRIP, sums + (r + step) * STRIP, count)
            r += 2 * step
        step *= 2


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
        out[r] = a.packed + T * a.offsets[a.peers.rank]
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
    while begin < width:
        count = min(STRIP, width - begin)
        a.codec.decode(row + _bytes(a.wire, begin), a.wire, count, strip)
        _put(a, x + begin, strip, count)
        begin += count


cdef int exact_form(const float *x, int64_t n) noexcept nogil:
    """The shortest form that holds all of n numbers exactly."""
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
        codec.encode(x + i, 0, count, 1, halves)
        codec.decode(halves, 1, count, back)
        if memcmp(back, x + i, count * sizeof(float)):
            return AS_FLOAT
        i += count
    return AS_HALF


cdef void send_row(const Broadcast *b, int form, int64_t t) noexcept nogil:
    cdef const float *x = b.x + t * b.dim
    cdef uint8_t *row = b.packed + t * b.dim * (4 if form == AS_FLOAT else 2)
    cdef int64_t i
    if form == AS_BRAIN:
        for i in range(b.dim):
            (<unsigned short *> row)[i] = (<const unsigned int *> x)[i] >> 16
    else:
        dl_quants_of(dl_isa()).encode(x, 0, b.dim, form, row)


cdef void receive_row(const Broadcast *b, int form, int64_t t) noexcept nogil:
    cdef float *x = b.x + t * b.dim
    cdef const uint8_t *row = b.packed + t * b.dim * (4 if form == AS_FLOAT else 2)
    cdef int64_t i
    if form == AS_BRAIN:
        for i in range(b.dim):
            (<unsigned int *> x)[i] = (<const unsigned short *> row)[i] << 16
    else:
        dl_quants_of(dl_isa()).decode(row, form, b.dim, x)


cdef int spread(const Broadcast *b, int form, int64_t T) noexcept nogil:
    """Scatter from the root, then an all-gather of the others: the root sends everything once."""
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int64_t begin[MOST_NODES + 1]
    cdef int64_t total = T * b.dim * (4 if form == AS_FLOAT else 2)
    cdef int r, n = b.peers.world, me = b.peers.rank
    for r in range(n + 1):
        begin[r] = total * max(0, r - 1) // (n - 1)
    for r in range(n):
        out[r], out_bytes[r] = b.packed + begin[r], begin[r + 1] - begin[r] if me == 0 else 0
        into[r], into_bytes[r] = b.packed + begin[me], begin[me + 1] - begin[me] if r == 0 else 0
    if swap(b.peers, out, out_bytes, into, into_bytes):
        return -1
    if me == 0 or n == 2:
        return 0
    for r in range(n):
        out[r], out_bytes[r] = b.packed + begin[me], begin[me + 1] - begin[me] if r else 0
        into[r], into_bytes[r] = b.packed + begin[r], begin[r + 1] - begin[r] if r else 0
    return swap(b.peers, out, out_bytes, into, into_bytes)


cdef class Group:
    """This node's links to all others, and room for collectives of `tokens` rows of dim numbers.

    links: one per rank, None at this node's own; they are all of one transport. watched: control
    links by rank; a swap is given up when one ends.
    wire: float type of what all-reduces send (0 f32, 1 f16, 3 q80). algorithm: auto, exchange or
    two-step. timeout: seconds without a byte. ConfigError where q80 does not divide dim.
    """

    def __init__(self, list links, int rank, *, int64_t dim, int64_t tokens, int wire,
                 str algorithm="auto", double timeout=5.0, dict watched=None):
        cdef int n = len(links), r
        if not 2 <= n <= MOST_NODES or links[rank] is not None:
            raise ConfigError(f"a group has 2 to {MOST_NODES} nodes, found {n}")
        if wire == 3 and dim % 32:
            raise ConfigError(f"buffer is q80, but rows of {dim} numbers are not blocks of 32")
        watched = watched or {}
        self._links = [links, watched]
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
        cdef int64_t blocks = (self.dim + 31) // 32, most
        cdef int64_t *borders
        cdef int64_t *offsets
        cdef int r
        self._borders, self._offsets = Memory((n + 1) * 8), Memory((n + 1) * 8)
        borders, offsets = <int64_t *> self._borders.data, <int64_t *> self._offsets.data
        for r in range(n + 1):
            borders[r] = min(self.dim, (blocks * r + n - 1) // n * 32)
            offsets[r] = _bytes(self.wire, borders[r])
        most = max(offsets[n], 4 * self.dim)  # a broadcast uses the same room
        self._packed = Memory(self.tokens * most)
        self._received = Memory(self._receives(n, offsets))

    cdef int64_t _receives(self, int n, const int64_t *offsets):
        """Most bytes that a swap puts into `received`."""
        cdef int64_t widest = 0, all_rows = self.tokens * offsets[n]
        cdef int r
        for r in range(n):
            widest = max(widest, offsets[r + 1] - offsets[r])
        if self.algorithm == TWO_STEP:
            return n * self.tokens * widest
        if self.algorithm == EXCHANGE or n == 2:
            return n * all_rows
        return n * max(self.tokens * widest, min(all_rows, _most_exchanged(n)))

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self._borders.nbytes + self._offsets.nbytes + self._packed.nbytes \
            + self._received.nbytes

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

    cdef AllReduce all_reduce_job(self, const float *src, float *dst) noexcept:
        cdef AllReduce a
        a.peers, a.codec, a.wire, a.algorithm = &self.peers, dl_quants_of(dl_isa()), self.wire, \
            self.algorithm
        a.store, a.dim, a.src, a.dst = False, self.dim, src, dst
        a.borders = <int64_t *> self._borders.data
        a.offsets = <int64_t *> self._offsets.data
        a.packed, a.received = <uint8_t *> self._packed.data, <uint8_t *> self._received.data
        return a

    cdef Broadcast broadcast_job(self, float *x) noexcept:
        cdef Broadcast b
        b.peers, b.dim, b.packed, b.x = &self.peers, self.dim, <uint8_t *> self._packed.data, x
        return b

    def all_reduce(self, const float[:, ::1] src, float[:, ::1] dst):
        """dst += sum of src over all nodes; float32 (T, dim). TransportError."""
        cdef int64_t T = src.shape[0], i
        self._check_rows(src.shape[0], src.shape[1])
        self._check_rows(dst.shape[0], dst.shape[1])
        cdef AllReduce a = self.all_reduce_job(&src[0, 0], &dst[0, 0])
        cdef int failed = 0
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
