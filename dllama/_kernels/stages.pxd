# Steps: what the tasks of a program come to, as the threads of a pass see them.

from libc.stdint cimport int64_t

from dllama._kernels.comm.allreduce cimport AllReduce
from dllama._kernels.ops.attention cimport Attention, KVCache
from dllama._kernels.comm.broadcast cimport Broadcast
from dllama._kernels.ops.elementwise cimport dl_batch, dl_floats, dl_rows
from dllama._kernels.ops.matmul cimport Matmul
from dllama._kernels.ops.moe cimport Experts, Routing
from dllama._kernels.ops.rope cimport RopeCache


cdef extern from "threads.h" nogil:
    ctypedef struct dl_barrier:
        pass
    ctypedef struct dl_counter:
        int64_t next
    int dl_thread_id()
    int dl_team_size()
    void dl_barrier_wait(dl_barrier *b, int team)
    int64_t dl_counter_next(dl_counter *c, int64_t end)
    int64_t dl_now()


# What a step does; from SEND_ROW on, steps of collectives.
cdef enum:
    EMBED = 0
    NORM = 1
    MATMUL = 2
    ROPE = 3
    ATTEND = 4
    ENCODE = 5
    MERGE = 6
    SCALE = 7
    ROUTE = 8
    SORT = 9
    DISPATCH = 10
    EXPERTS_GATED = 11
    EXPERTS_SUM = 12
    SEND_ROW = 13
    SPREAD = 14
    RECEIVE_ROW = 15
    PACK = 16
    FIRST_EXCHANGE = 17
    REDUCE = 18
    SECOND_EXCHANGE = 19
    UNPACK = 20


# A task as the threads see it; which fields count depends on op.
cdef struct Step:
    int op
    bint tail                       # works on the last rows only, and writes from row 0
    int64_t width                   # of a row of src
    const float *src                # [T][width]
    float *dst                      # EMBED, SCALE: [T][width]; NORM: the same, or NULL
    bint add                        # NORM: to dst
    float scale                     # SCALE
    const float *weight             # EMBED: [vocab][width], NORM: [width], ROPE: [2][size] or NULL
    const dl_rows *rows             # NORM, ENCODE, DISPATCH: the result
    const Routing *routing          # ROUTE, SORT, DISPATCH
    Matmul matmul
    Experts experts
    Attention attention
    AllReduce sum
    Broadcast copy
    int64_t layer


# What all threads share during a pass.
cdef struct Pass:
    dl_batch batch
    const Step *steps
    int64_t n_steps
    dl_counter *counters            # [n_steps][threads], items taken of each thread's share
    int threads
    int64_t *nanoseconds            # [n_steps], of this pass, by thread 0
    dl_barrier *barrier
    float *scratch                  # [threads][scratch_width]
    int64_t scratch_width
    const dl_floats *floats
    float epsilon
    int64_t pairs, qkv_width
    bint halves
    int form                        # of the rows that a broadcast sends
    int failed                      # the step whose exchange failed, from 1 on: it is the last one


# How many items a step has in this pass; items are independent, so any thread may do any of them.
cdef int64_t step_items(const Pass *run, const Step *step) noexcept nogil
# Item i of a step; scratch: [scratch_width], the thread's own.
cdef void step_item(Pass *run, const Step *step, int64_t i, float *scratch, RopeCache turns,
                    KVCache cache) noexcept nogil
