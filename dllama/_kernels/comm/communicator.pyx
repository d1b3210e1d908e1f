"""A communicator: links to all other nodes, and memory for all-reduces and broadcasts."""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t

from dllama._kernels.comm.allreduce cimport (
    AUTO, EXCHANGE, OF_TRANSPORT, TWO_STEP, first_exchange, most_exchanged, pack_item, pack_items, reduce_item,
    reduce_items, second_exchange, sums_of, two_step, unpack_item, unpack_items,
)
from dllama._kernels.comm.broadcast cimport AS_FLOAT, exact_encoding, receive_row, send_row, spread
from dllama._kernels.ops.elementwise cimport dl_isa
from dllama._kernels.op cimport first_half
from dllama._kernels.comm.link cimport Link, failure
from dllama._kernels.comm.wire cimport dl_wire, dl_wire_bytes, dl_wire_f32, dl_wire_fns, dl_wire_of
from dllama._kernels.comm.exchange cimport MOST_NODES, Failure

from dllama.errors import ConfigError


cdef extern from "errno.h" nogil:
    int ECANCELED


cdef extern from "simd/wires.h" nogil:
    const dl_wire_fns *dl_wire_fns_of(int isa)

# Numbers that a chunk is a multiple of: a block of every form.
cdef enum:
    BLOCK = 32

# The forms of simd/wire.h by name.
WIRES = {dl_wire_of(wire).name.decode(): wire for wire in range(4)}
ALGORITHMS = {"auto": AUTO, "exchange": EXCHANGE, "two-step": TWO_STEP, "mpi": OF_TRANSPORT}


def wire_bytes(str wire, int64_t n):
    """Bytes of n numbers, whole blocks, as all-reduces send them."""
    return dl_wire_bytes(WIRES[wire], n)


def chunk_borders(int64_t dim, int64_t n):
    """Columns before the chunk of each of n ranks, and dim: chunks are whole blocks."""
    cdef int64_t blocks = (dim + BLOCK - 1) // BLOCK, r
    return [min(dim, (blocks * r + n - 1) // n * BLOCK) for r in range(n + 1)]


def takes_two_steps(str algorithm, int64_t n, int64_t sums, int64_t nbytes):
    """Whether an all-reduce has two steps.

    Args:
        algorithm: auto, exchange or two-step.
        n: nodes.
        sums: of all nodes together.
        nbytes: of all rows of a sum.
    """
    if algorithm != "auto":
        return algorithm == "two-step"
    return nbytes > most_exchanged(n, sums)


cdef class Communicator:
    """The links of a node to all others, and memory for collectives.

    Args:
        links: a link for each rank, None for this node's own. All are of the same transport.
        rank: rank of this node.
        dim: numbers in a row.
        max_rows: most rows of a collective.
        wire: how all-reduces send numbers: f32, f16, q80 or q60.
        algorithm: of all-reduces: auto, exchange or two-step; mpi for the one of the transport.
        timeout: seconds without a byte after which a collective fails.
        watched: control links by rank. An exchange fails when one of them ends.
        sums: by rank, most sums that a node has in an all-reduce; by default 1.
        widest: most numbers in a row of a broadcast; by default dim.

    Raises:
        ConfigError: the number of nodes is out of range, dim is not whole blocks of `wire`, or the
            transport has no all-reduce that adds such numbers.
    """

    def __init__(self, list links, int rank, *, int64_t dim, int64_t max_rows, str wire,
                 str algorithm="auto", double timeout=5.0, dict watched=None, sums=None,
                 int64_t widest=0):
        cdef int n = len(links), r
        if not 2 <= n <= MOST_NODES or links[rank] is not None:
            raise ConfigError(f"a communicator has 2 to {MOST_NODES} nodes, found {n}")
        cdef const dl_wire *form = dl_wire_of(WIRES[wire])
        if dim % form.block:
            raise ConfigError(f"buffer is {wire}, but rows of {dim} numbers are not whole blocks "
                              f"of {form.block}")
        watched = watched or {}
        self._links = [links, watched]
        self._most_sums = [1] * n if sums is None else list(sums)
        self.dim, self.max_rows, self.wire = dim, max_rows, WIRES[wire]
        self.algorithm = ALGORITHMS[algorithm]
        self.peers.world_size, self.peers.rank = n, rank
        self.peers.patience = <int64_t> (timeout * 1e9)
        for r in range(n):
            self.peers.links[r] = NULL if r == rank else &(<Link?> links[r]).hot
        for r in watched:
            self.peers.watched[self.peers.n_watched] = &(<Link?> watched[r]).hot
            self.peers.watched_ranks[self.peers.n_watched] = r
            self.peers.n_watched += 1
        if self.algorithm == OF_TRANSPORT and (
                self.peers.links[1 if rank == 0 else 0].ops.sum_some == NULL
                or wire != "f32" or max(self._most_sums) > 1):
            raise ConfigError(f"all_reduce is {algorithm}, expected auto, exchange or two-step for "
                              f"this transport and {wire} buffers")
        self._allocate(n, max(dim, widest))

    def _allocate(self, int n, int64_t broadcast):
        """Cut dim into n chunks of whole blocks, and allocate memory for messages."""
        cdef int64_t first = first_half(self.max_rows)
        cdef int64_t *borders
        cdef int64_t *offsets
        cdef int r
        self._borders, self._offsets = Memory((n + 1) * 8), Memory((n + 1) * 8)
        borders, offsets = <int64_t *> self._borders.data, <int64_t *> self._offsets.data
        for r, border in enumerate(chunk_borders(self.dim, n)):
            borders[r] = border
            offsets[r] = dl_wire_bytes(self.wire, borders[r])
            self._widest = max(self._widest, offsets[r] - offsets[r - 1] if r else 0)
        self._most = max(1, self._most_sums[self.peers.rank]) * offsets[n]
        self._most = max(self._most, 4 * broadcast)  # a broadcast uses the same memory
        self._packed = Memory(self.max_rows * self._most)
        self._received = Memory(max(
            self._receives(self.max_rows), self._receives(first) + self._receives(self.max_rows - first)))
        self._reduced = Memory(self.max_rows * self._widest)
        self._carry = Memory(0 if self.wire == dl_wire_f32 else self.max_rows * self.dim * 4)

    cdef int64_t _receives(self, int64_t rows):
        """Most bytes that a first exchange receives: whole rows, or rows of the widest chunk."""
        cdef int64_t n = self.peers.world_size, row = (<int64_t *> self._offsets.data)[n]
        cdef int64_t total = sum(self._most_sums), most = 0, sums
        if self.algorithm == OF_TRANSPORT:
            return rows * row
        if self.algorithm != EXCHANGE:
            most = total * rows * self._widest
        if self.algorithm != TWO_STEP:
            for sums in range(1, total + 1):
                limit = INT64_MAX if self.algorithm == EXCHANGE else most_exchanged(n, sums)
                most = max(most, sums * min(rows * row, limit))
        return most

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self._borders.nbytes + self._offsets.nbytes + self._packed.nbytes \
            + self._received.nbytes + self._reduced.nbytes + self._carry.nbytes

    @property
    def world_size(self):
        """Number of nodes."""
        return self.peers.world_size

    @property
    def rank(self):
        """Rank of this node."""
        return self.peers.rank

    @property
    def failed(self):
        """Whether a collective failed."""
        return self.peers.failure.error != 0

    @property
    def failed_rank(self):
        """Rank of the node that the first failure blames, or None."""
        return self.peers.failure.rank if self.failed else None

    def check(self):
        """Raise a TransportError for the first failure of a collective, if there was one."""
        cdef Failure f = self.peers.failure
        if f.error == 0:
            return
        if f.rank == self.peers.rank:
            raise failure(f.error, "adding up with", "the other nodes", self.peers.patience / 1e9)
        links, watched = self._links
        link = links[f.rank] if f.error != -ECANCELED else watched[f.rank]
        raise failure(f.error, "sending to" if f.sending else "receiving from", link.peer,
                      self.peers.patience / 1e9)

    def traffic(self):
        """(bytes sent, bytes received) over all links so far."""
        cdef int64_t sent = 0, received = 0
        cdef int r
        for r in range(self.peers.world_size):
            if r != self.peers.rank:
                sent += self.peers.links[r].sent
                received += self.peers.links[r].received
        return sent, received

    def encoding_of(self, const float[:, ::1] x):
        """The shortest encoding in which a broadcast sends x, float32 (T, columns), exactly."""
        return exact_encoding(&x[0, 0], x.shape[0] * x.shape[1])

    cdef int all_reduce_job(self, AllReduce *a, Additions additions, const float *src,
                            int64_t sum_stride, float *dst, bint store, int64_t first=0) except -1:
        cdef int r
        a.first_sum, a.adds = additions.first_sums(), additions.adds()
        if additions.world_size != self.peers.world_size or any(
                a.first_sum[r + 1] - a.first_sum[r] > self._most_sums[r]
                for r in range(self.peers.world_size)):
            raise ValueError("the additions do not fit the nodes of this communicator")
        a.peers, a.fns, a.wire = &self.peers, dl_wire_fns_of(dl_isa()), self.wire
        a.algorithm, a.store, a.dim = self.algorithm, store, self.dim
        a.src, a.sum_stride, a.dst = src, sum_stride, dst
        a.borders = <int64_t *> self._borders.data
        a.offsets = <int64_t *> self._offsets.data
        a.packed = <uint8_t *> self._packed.data + first * self._most
        a.received = <uint8_t *> self._received.data + (self._receives(first) if first else 0)
        a.reduced = <uint8_t *> self._reduced.data + first * self._widest
        a.begun = &self._begun[1 if first else 0]
        a.carry, a.begins = NULL, False
        return 0

    cdef float *carry(self) except? NULL:
        return NULL if self.wire == dl_wire_f32 else self._carry.floats()

    cdef Broadcast broadcast_job(self, float *x, int64_t dim, int64_t first=0) noexcept:
        cdef Broadcast b
        b.peers, b.dim, b.x = &self.peers, dim, x
        b.packed = <uint8_t *> self._packed.data + first * self._most
        return b

    def all_reduce(self, const float[:, ::1] src, float[:, ::1] dst, adds=None,
                   bint carries=False, bint begins=False):
        """Add all sums of all nodes to dst. All nodes must call it.

        Args:
            src: float32 (sums of this node * T, dim).
            dst: float32 (T, dim).
            adds: by rank, how sums are added (dllama.graph.sum_tree); by default, every node has
                one sum, and they are added in the order of ranks.
            carries: whether to add what rounding took from earlier calls; nodes then have at most
                one sum.
            begins: whether nothing has been carried before.

        Raises:
            ValueError: the shapes do not fit.
            TransportError: a link failed, now or before.
        """
        cdef int64_t T = dst.shape[0], i
        cdef Additions additions = Additions(
            adds or [(min(1, r),) for r in range(self.peers.world_size)])
        cdef AllReduce a
        cdef int failed = 0
        self._check_rows(dst.shape[0], dst.shape[1])
        self.all_reduce_job(&a, additions, &src[0, 0] if src.shape[0] else NULL, T, &dst[0, 0], False)
        if carries:
            a.carry, a.begins = self.carry(), begins
        if src.shape[0] != T * sums_of(&a, self.peers.rank) or src.shape[1] != self.dim:
            raise ValueError(f"src is {src.shape[0]} x {src.shape[1]}, expected "
                             f"{T * sums_of(&a, self.peers.rank)} x {self.dim}")
        with nogil:
            for i in range(pack_items(&a, T)):
                pack_item(&a, T, i)
            failed = first_exchange(&a, T)
            if not failed:
                for i in range(reduce_items(&a, T)):
                    reduce_item(&a, T, i)
                if two_step(&a, T):
                    failed = second_exchange(&a, T)
            if not failed:
                for i in range(unpack_items(&a, T)):
                    unpack_item(&a, T, i)
        self.check()

    def broadcast(self, float[:, ::1] x, int encoding=AS_FLOAT):
        """Copy x of rank 0 to x of all other nodes. All nodes must call it.

        Args:
            x: float32 (T, dim).
            encoding: how rows are sent, the same on all nodes.

        Raises:
            ValueError: the shape does not fit.
            TransportError: a link failed, now or before.
        """
        cdef int64_t T = x.shape[0], t
        self._check_rows(x.shape[0], x.shape[1])
        cdef Broadcast b = self.broadcast_job(&x[0, 0], self.dim)
        if self.peers.rank == 0:
            for t in range(T):
                send_row(&b, encoding, t)
        with nogil:
            spread(&b, encoding, T)
        self.check()
        if self.peers.rank:
            for t in range(T):
                receive_row(&b, encoding, t)

    def _check_rows(self, int64_t rows, int64_t dim):
        if not 1 <= rows <= self.max_rows or dim != self.dim:
            raise ValueError(f"{rows} x {dim} numbers, expected up to {self.max_rows} x {self.dim}")
