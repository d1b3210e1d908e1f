"""Ops that move rows between nodes: broadcast, gather and all-reduce."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from dllama._kernels.comm.allreduce cimport (
    Additions, AllReduce, begin_first, begin_second, end_exchange, first_exchange, pack_item,
    pack_items, reduce_item, reduce_items, second_exchange, two_step, unpack_item, unpack_items,
)
from dllama._kernels.comm.broadcast cimport Broadcast, receive_row, send_row, spread
from dllama._kernels.comm.communicator cimport Communicator
from dllama._kernels.comm.exchange cimport MOST_NODES, Peers, exchange
from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings, Op, Pass, one_item

import numpy as np

from dllama._kernels.tasks import Then


cdef int64_t send_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows if (<const Broadcast *> op).peers.rank == 0 else 0


cdef int send_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    send_row(<const Broadcast *> op, run.encoding, t)
    return 0


cdef int spread_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    return spread(<const Broadcast *> op, run.encoding, run.batch.rows)


cdef int64_t receive_items(const Pass *run, const void *op) noexcept nogil:
    return 0 if (<const Broadcast *> op).peers.rank == 0 else run.batch.rows


cdef int receive_item(const Pass *run, const void *op, int64_t t, float *scratch) noexcept nogil:
    receive_row(<const Broadcast *> op, run.encoding, t)
    return 0


cdef class BroadcastOp(Op):
    """dst on all nodes = dst of the root, exactly."""

    cdef Broadcast op
    cdef Communicator communicator

    def __init__(self, Bindings b, task):
        self.communicator = b.communicator
        self.op = self.communicator.broadcast_job(b.floats(task.dst), b.rows(task.dst).k, b.first)
        self.stage(send_items, send_item, &self.op)
        self.stage(one_item, spread_item, &self.op)
        self.stage(receive_items, receive_item, &self.op)


cdef struct Gather:
    Peers *peers
    float *x                        # [T][width]
    int64_t width
    const int64_t *held             # [world_size][2 ranges][begin, end]: columns of each node
    float *out                      # [T][columns of this node]
    float *into                     # by rank: [T][columns]


cdef inline int64_t _held(const Gather *g, int rank) noexcept nogil:
    """How many columns a node has."""
    cdef const int64_t *h = g.held + 4 * rank
    return h[1] - h[0] + h[3] - h[2]


cdef inline void _move(const Gather *g, int rank, int64_t T, float *packed, bint pack) noexcept nogil:
    """Copy the columns of a node from x to packed rows, or back."""
    cdef const int64_t *h = g.held + 4 * rank
    cdef int64_t t, part, n
    cdef float *x
    for t in range(T):
        for part in range(2):
            x, n = g.x + t * g.width + h[2 * part], h[2 * part + 1] - h[2 * part]
            memcpy(packed if pack else x, x if pack else packed, n * sizeof(float))
            packed += n


cdef int gather_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const Gather *g = <const Gather *> op
    cdef const uint8_t *out[MOST_NODES]
    cdef uint8_t *into[MOST_NODES]
    cdef int64_t out_bytes[MOST_NODES]
    cdef int64_t into_bytes[MOST_NODES]
    cdef int64_t T = run.batch.rows, at = 0
    cdef int r
    _move(g, g.peers.rank, T, g.out, True)
    for r in range(g.peers.world_size):
        out[r], out_bytes[r] = <const uint8_t *> g.out, T * _held(g, g.peers.rank) * sizeof(float)
        into[r], into_bytes[r] = <uint8_t *> (g.into + at), T * _held(g, r) * sizeof(float)
        at += T * _held(g, r)
    if exchange(g.peers, out, out_bytes, into, into_bytes):
        return -1
    for r in range(g.peers.world_size):
        if r != g.peers.rank:
            _move(g, r, T, <float *> into[r], False)
    return 0


cdef class GatherOp(Op):
    """The columns of dst that other nodes have = theirs, exactly.

    task.held has two ranges of columns for each rank. Nodes that have the same column have the same
    numbers in it.
    """

    cdef Gather op
    cdef Communicator communicator
    cdef int64_t[::1] held
    cdef Memory memory

    def __init__(self, Bindings b, task):
        cdef Gather *g = &self.op
        cdef int64_t own, all
        self.communicator = b.communicator
        self.held = np.array([[(part.start, part.stop) for part in parts] for parts in task.held],
                             np.int64).reshape(-1)
        g.peers, g.held = &self.communicator.peers, &self.held[0]
        g.x, g.width = b.floats(task.dst), b.rows(task.dst).k
        own, all = _held(g, g.peers.rank), sum([_held(g, r) for r in range(g.peers.world_size)])
        rows = b.max_rows
        self.memory = b.shared(("gather", own, all), lambda: Memory(rows * (own + all) * sizeof(float)))
        g.out, g.into = self.memory.floats(), self.memory.floats() + b.max_rows * own
        self.stage(one_item, gather_item, g)


cdef int64_t all_pack_items(const Pass *run, const void *op) noexcept nogil:
    return pack_items(<const AllReduce *> op, run.batch.rows)


cdef int all_pack_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    pack_item(<const AllReduce *> op, run.batch.rows, i)
    return 0


# The rows of a half begin an exchange in one stage and end it in a later one; the stages of the other
# half lie between. An all-reduce without a second exchange ends its only one where that would end.
cdef inline bint _is_late(const Pass *run, const AllReduce *a) noexcept nogil:
    return run.halved and not two_step(a, run.batch.rows)


cdef int64_t begin_items(const Pass *run, const void *op) noexcept nogil:
    return 1 if run.halved else 0


cdef int begin_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    return begin_first(<const AllReduce *> op, run.batch.rows)


cdef int64_t first_items(const Pass *run, const void *op) noexcept nogil:
    return 0 if _is_late(run, <const AllReduce *> op) else 1


cdef int first_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    if run.halved:
        return end_exchange(<const AllReduce *> op)
    return first_exchange(<const AllReduce *> op, run.batch.rows)


cdef int64_t all_reduce_items(const Pass *run, const void *op) noexcept nogil:
    cdef const AllReduce *a = <const AllReduce *> op
    return 0 if _is_late(run, a) else reduce_items(a, run.batch.rows)


cdef int all_reduce_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    reduce_item(<const AllReduce *> op, run.batch.rows, i)
    return 0


cdef int64_t begin_second_items(const Pass *run, const void *op) noexcept nogil:
    return 1 if run.halved and two_step(<const AllReduce *> op, run.batch.rows) else 0


cdef int begin_second_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    return begin_second(<const AllReduce *> op, run.batch.rows)


cdef int64_t second_items(const Pass *run, const void *op) noexcept nogil:
    return 1 if run.halved or two_step(<const AllReduce *> op, run.batch.rows) else 0


cdef int second_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    if run.halved:
        return end_exchange(<const AllReduce *> op)
    return second_exchange(<const AllReduce *> op, run.batch.rows)


cdef int64_t all_unpack_items(const Pass *run, const void *op) noexcept nogil:
    cdef const AllReduce *a = <const AllReduce *> op
    return (reduce_items if _is_late(run, a) else unpack_items)(a, run.batch.rows)


cdef int all_unpack_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const AllReduce *a = <const AllReduce *> op
    (reduce_item if _is_late(run, a) else unpack_item)(a, run.batch.rows, i)
    return 0


cdef class AllReduceOp(Op):
    """dst = the sum of src over all nodes; Then.ADD: dst += it, with what was carried."""

    cdef AllReduce op
    cdef Communicator communicator
    cdef Additions additions

    def __init__(self, Bindings b, task):
        self.communicator, self.additions = b.communicator, Additions(task.adds)
        self.communicator.all_reduce_job(&self.op, self.additions, b.floats(task.src), b.max_rows,
                                         b.floats(task.dst), task.then == Then.STORE, b.first)
        if task.then == Then.ADD and max(map(len, task.adds)) == 1:
            self.op.carry, self.op.begins = self.communicator.carry(), task.begins
            if self.op.carry != NULL:
                self.op.carry += b.first * self.op.dim
        self.stage(all_pack_items, all_pack_item, &self.op)
        self.stage(begin_items, begin_item, &self.op)
        self.stage(first_items, first_item, &self.op)
        self.stage(all_reduce_items, all_reduce_item, &self.op)
        self.stage(begin_second_items, begin_second_item, &self.op)
        self.stage(second_items, second_item, &self.op)
        self.stage(all_unpack_items, all_unpack_item, &self.op)
