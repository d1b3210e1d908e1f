"""Ops that move rows between nodes: broadcast and all-reduce."""

from libc.stdint cimport int64_t

from dllama._kernels.comm.allreduce cimport (
    Additions, AllReduce, first_exchange, pack_item, pack_items, reduce_item, reduce_items,
    second_exchange, two_step, unpack_item, unpack_items,
)
from dllama._kernels.comm.broadcast cimport Broadcast, receive_row, send_row, spread
from dllama._kernels.comm.communicator cimport Communicator
from dllama._kernels.op cimport Bindings, Op, Pass, one_item

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
        self.op = self.communicator.broadcast_job(b.floats(task.dst))
        self.stage(send_items, send_item, &self.op)
        self.stage(one_item, spread_item, &self.op)
        self.stage(receive_items, receive_item, &self.op)


cdef int64_t all_pack_items(const Pass *run, const void *op) noexcept nogil:
    return pack_items(<const AllReduce *> op, run.batch.rows)


cdef int all_pack_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    pack_item(<const AllReduce *> op, run.batch.rows, i)
    return 0


cdef int first_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    return first_exchange(<const AllReduce *> op, run.batch.rows)


cdef int64_t all_reduce_items(const Pass *run, const void *op) noexcept nogil:
    return reduce_items(<const AllReduce *> op, run.batch.rows)


cdef int all_reduce_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    reduce_item(<const AllReduce *> op, run.batch.rows, i)
    return 0


cdef int64_t second_items(const Pass *run, const void *op) noexcept nogil:
    return 1 if two_step(<const AllReduce *> op, run.batch.rows) else 0


cdef int second_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    return second_exchange(<const AllReduce *> op, run.batch.rows)


cdef int64_t all_unpack_items(const Pass *run, const void *op) noexcept nogil:
    return unpack_items(<const AllReduce *> op, run.batch.rows)


cdef int all_unpack_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    unpack_item(<const AllReduce *> op, run.batch.rows, i)
    return 0


cdef class AllReduceOp(Op):
    """dst = the sum of src over all nodes; Then.ADD: dst += it, with what was carried."""

    cdef AllReduce op
    cdef Communicator communicator
    cdef Additions additions

    def __init__(self, Bindings b, task):
        self.communicator, self.additions = b.communicator, Additions(task.adds)
        self.communicator.all_reduce_job(&self.op, self.additions, b.floats(task.src), b.max_rows,
                                         b.floats(task.dst), task.then == Then.STORE)
        if task.then == Then.ADD and max(map(len, task.adds)) == 1:
            self.op.carry, self.op.begins = self.communicator.carry(), task.begins
        self.stage(all_pack_items, all_pack_item, &self.op)
        self.stage(one_item, first_item, &self.op)
        self.stage(all_reduce_items, all_reduce_item, &self.op)
        self.stage(second_items, second_item, &self.op)
        self.stage(all_unpack_items, all_unpack_item, &self.op)
