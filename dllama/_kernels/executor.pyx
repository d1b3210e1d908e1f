"""Runs a Graph: all tasks of a pass in one parallel region, without the GIL.

T: tokens in the pass. Every task is a number of independent items. Each thread has a share of
them, which it takes in order, so that it reads its rows of a matrix as one stream; then it takes what
others have left. Between tasks they meet at a barrier. Which thread computes an item does not
change its bits.
"""

from cython.parallel cimport parallel
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.comm.allreduce cimport Additions
from dllama._kernels.ops.attention cimport (
    Attention, KVCache, attention_job, attention_parts, dl_part,
)
from dllama._kernels.comm.broadcast cimport AS_FLOAT
from dllama._kernels.comm.communicator cimport Communicator
from dllama._kernels.ops.elementwise cimport Rows, dl_floats_of, dl_isa, dl_rows
from dllama._kernels.ops.matmul cimport (
    ADD, GATED, GATED_GELU, STORE, Matmul, Order, PackedMatrix, matmul_job, sum_in_order,
)
from dllama._kernels.memory cimport Memory
from dllama._kernels.ops.moe cimport Routes, gated_job, sum_job, sum_scratch
from dllama._kernels.ops.rope cimport RopeCache
from dllama._kernels.stages cimport (
    ATTEND, DISPATCH, EMBED, ENCODE, EXPERTS_GATED, EXPERTS_SUM, FIRST_EXCHANGE, MATMUL, MERGE, NORM,
    PACK, RECEIVE_ROW, REDUCE, ROPE, ROUTE, SCALE, SECOND_EXCHANGE, SEND_ROW, SORT, SPREAD, UNPACK,
    Pass, Step, dl_barrier, dl_barrier_wait, dl_counter, dl_counter_next, dl_now, dl_team_size,
    dl_thread_id, step_item, step_items,
)

from dllama._kernels.tasks import Form, Kind, Op, Then
from dllama.graph.shard import columns_of
from dllama.model.spec import RopeType


# The steps that a task is cut into; all but the first have the fields of the first.
cdef dict STEPS_OF = {
    Op.EMBED: (EMBED,), Op.NORM: (NORM,), Op.MATMUL: (MATMUL,), Op.ROPE: (ROPE,),
    Op.ATTENTION: (ATTEND, MERGE), Op.ENCODE: (ENCODE,), Op.SCALE: (SCALE,),
    Op.ROUTE: (ROUTE, SORT), Op.DISPATCH: (DISPATCH,), Op.EXPERTS_GATED: (EXPERTS_GATED,),
    Op.EXPERTS_SUM: (EXPERTS_SUM,),
    Op.BROADCAST: (SEND_ROW, SPREAD, RECEIVE_ROW),
    Op.ALL_REDUCE: (PACK, FIRST_EXCHANGE, REDUCE, SECOND_EXCHANGE, UNPACK),
}
cdef int MOST_STEPS = max(map(len, STEPS_OF.values()))
cdef dict THEN_OF = {
    Then.STORE: STORE, Then.ADD: ADD, Then.GATED: GATED, Then.GATED_GELU: GATED_GELU,
}


cdef class Executor:
    """A dllama.graph.graph.Graph, its weights, KV cache and buffers.

    matrices: PackedMatrix by name; vectors: float32 arrays by name; embedding: float32
    (vocab, dim), or None where a graph does not use it. A pass takes up to max_batch tokens;
    seq_len positions fit in the cache of each context. communicator: the links of a graph for several
    nodes.
    """

    cdef Pass run_
    cdef Memory steps, counters, nanoseconds, barrier, scratch, parts
    cdef list kept                  # Python objects whose memory the steps point to
    cdef dict buffers               # Memory or Rows by name
    cdef KVCache cache
    cdef RopeCache turns
    cdef Communicator communicator
    cdef float *logits              # [max_logits][local_vocab]
    cdef list step_tasks            # for each step, its task
    cdef readonly int64_t max_batch, max_logits, seq_len, contexts, vocab_size, local_vocab
    cdef readonly int threads
    cdef readonly int64_t began     # when the last pass began, nanoseconds of the monotonic clock

    def __init__(self, graph, dict matrices, dict vectors, const float[:, ::1] embedding,
                 *, int threads, int64_t max_batch, int64_t max_logits, int64_t seq_len, bint half,
                 int64_t contexts=1, Communicator communicator=None):
        spec = graph.spec
        self.threads, self.max_batch, self.seq_len = threads, max_batch, seq_len
        self.max_logits, self.contexts, self.vocab_size = max_logits, contexts, spec.vocab_size
        self.local_vocab, self.communicator = len(graph.shard.vocab), communicator
        self.kept, self.step_tasks = [matrices, vectors, embedding], []
        self._allocate(graph, half)
        cdef Step *steps = <Step *> self.steps.data
        cdef int64_t n = 0
        for task in graph.tasks:
            self._add(&steps[n], graph, task, matrices, vectors, embedding)
            for index, op in enumerate(STEPS_OF[task.op]):
                if index:
                    memcpy(&steps[n], &steps[n - 1], sizeof(Step))
                steps[n].op = op
                self.step_tasks.append(task)
                n += 1
        self.run_.n_steps = n

    def _allocate(self, graph, bint half):
        """Buffers, KV cache and RoPE cache; sets what no task changes."""
        spec, shard, most = graph.spec, graph.shard, MOST_STEPS * len(graph.tasks)
        cdef int64_t width = 16
        cdef KVCache cache = KVCache(spec.n_layers, len(shard.kv_heads), spec.head_dim,
                                     self.seq_len, half, self.contexts)
        self.cache = cache
        self.turns = RopeCache(spec.head_dim, self.seq_len, spec.rope_theta, _scaling(spec),
                               self.threads)
        self.buffers = {"logits": Memory(self.max_logits * self.local_vocab * sizeof(float))}
        for buffer in graph.buffers:
            self.buffers[buffer.name] = self._buffer(buffer, spec)
            width = max(width, buffer.width)
        for task in graph.tasks:
            if task.op == Op.EXPERTS_SUM:
                width = max(width, sum_scratch(task.lanes, self.max_batch))
        self.logits = (<Memory> self.buffers["logits"]).floats()
        self.parts = Memory(attention_parts(cache, spec.n_heads // spec.n_kv_heads)
                            * sizeof(dl_part))
        self.steps = Memory(most * sizeof(Step))
        self.counters = Memory(most * self.threads * sizeof(dl_counter))
        self.nanoseconds = Memory(most * sizeof(int64_t))
        self.barrier = Memory(sizeof(dl_barrier))
        width = (width + 15) // 16 * 16
        self.scratch = Memory(self.threads * width * sizeof(float))
        cdef Pass *run = &self.run_
        run.steps = <Step *> self.steps.data
        run.counters, run.threads = <dl_counter *> self.counters.data, self.threads
        run.nanoseconds = <int64_t *> self.nanoseconds.data
        run.barrier = <dl_barrier *> self.barrier.data
        run.scratch, run.scratch_width = self.scratch.floats(), width
        run.floats, run.epsilon = dl_floats_of(dl_isa()), spec.norm_epsilon
        run.pairs = spec.head_dim // 2
        run.qkv_width = (len(shard.heads) + 2 * len(shard.kv_heads)) * spec.head_dim
        run.halves = spec.rope_type is RopeType.FALCON

    def _buffer(self, buffer, spec):
        rows = self.max_batch * buffer.rows
        if buffer.form == Form.INPUT:
            return Rows(rows, buffer.width, spec.weight_type.block_size > 1)
        if buffer.form == Form.ROUTES:
            return Routes(rows, spec.n_experts, buffer.width, spec.topk_normalised)
        return Memory(rows * buffer.width * sizeof(float))

    cdef int _add(self, Step *step, graph, task, dict matrices, dict vectors,
                  const float[:, ::1] embedding) except -1:
        """Make the first step of a task."""
        cdef const float[::1] vector
        memset(step, 0, sizeof(Step))
        op = task.op
        step.tail, step.layer = task.tail, task.layer
        if op == Op.EMBED:
            step.weight, step.width = &embedding[0, 0], embedding.shape[1]
            step.dst = self._floats(task.dst)
        elif op == Op.NORM:
            vector = vectors[task.weight]
            step.weight, step.width = &vector[0], vector.shape[0]
            step.src, step.add = self._floats(task.src), task.then == Then.ADD
            if isinstance(self.buffers[task.dst], Rows):
                step.rows = self._rows(task.dst)
            else:
                step.dst = self._floats(task.dst)
        elif op == Op.ENCODE:
            step.src, step.rows = self._floats(task.src), self._rows(task.dst)
            step.width = step.rows.k
        elif op == Op.SCALE:
            step.src, step.dst = self._floats(task.src), self._floats(task.dst)
            step.scale = task.scale
            step.width = self.local_vocab if task.dst == "logits" else graph.spec.dim
        elif op == Op.MATMUL:
            self._add_matmul(step, task, matrices[task.weight])
            if task.bias:
                vector = vectors[task.bias]
                step.matmul.bias = &vector[0]
        elif op == Op.ROPE or op == Op.ATTENTION:
            self._add_attention(step, graph, task)
            if task.weight:
                vector = vectors[task.weight]
                step.weight = &vector[0]
        elif op == Op.BROADCAST:
            step.copy = self.communicator.broadcast_job(self._floats(task.dst))
        elif op == Op.ALL_REDUCE:
            additions = Additions(task.adds)
            self.kept.append(additions)
            self.communicator.all_reduce_job(&step.sum, additions, self._floats(task.src), self.max_batch,
                                      self._floats(task.dst), task.then == Then.STORE)
        else:
            self._add_experts(step, graph.spec, task, matrices)
        return 0

    cdef int _add_experts(self, Step *step, spec, task, dict matrices) except -1:
        """The steps of a mixture of experts."""
        cdef Routes routes = self.buffers[task.routes or task.dst]
        op, then, lanes = task.op, THEN_OF[task.then], task.lanes
        step.routing = &routes.view
        if op == Op.ROUTE:
            step.src, step.width = self._floats(task.src), spec.n_experts
        elif op == Op.DISPATCH:
            step.src, step.width = self._floats(task.src), spec.dim
            step.rows = self._rows(task.dst)
        elif op == Op.EXPERTS_GATED:
            step.experts = gated_job(routes, matrices[task.weight], self._rows(task.src),
                                     self._rows(task.dst), lanes, then, self.threads)
        else:
            step.experts = sum_job(routes, matrices[task.weight], self._rows(task.src), lanes,
                                   self._floats(task.dst), spec.dim, then == ADD, self.threads)
        return 0

    cdef int _add_matmul(self, Step *step, task, PackedMatrix matrix) except -1:
        cdef Matmul *m = &step.matmul
        cdef object source = self.buffers[task.src]
        cdef const dl_rows *src
        cdef Order order
        if isinstance(source, Rows):
            src = self._rows(task.src)
        else:
            source = _float_rows(source, matrix.cols)
            self.kept.append(source)
            src = &(<Rows> source).view
        m[0] = matmul_job(matrix, src, THEN_OF[task.then], self.threads)
        if task.sums:
            order = Order([(segment.columns, segment.adds) for segment in task.sums.segments])
            self.kept.append(order)
            sum_in_order(m, matrix, task.sums.first, order)
        if m.then >= GATED:
            m.gated = self._rows(task.dst)
        else:
            m.dst, m.ld = self._floats(task.dst), matrix.rows
            m.dst += <int64_t> task.part * self.max_batch * m.ld
        return 0

    cdef int _add_attention(self, Step *step, graph, task) except -1:
        """The heads of the shard; RoPE turns them where they are."""
        cdef Attention *a = &step.attention
        cdef int64_t before
        spec, heads = graph.spec, graph.shard.heads
        group = spec.n_heads // spec.n_kv_heads
        a[0] = attention_job(self.cache, task.layer, group, len(heads), heads.start % group)
        a.q, a.q_ld = self._floats(task.src), self.run_.qkv_width
        a.scale, a.cap = spec.attention_scale or a.scale, spec.attention_cap
        if task.op == Op.ROPE:
            step.dst = self._floats(task.dst)
            return 0
        cols = columns_of(spec, heads)
        before = heads.start * spec.head_dim - cols.start
        a.out, a.out_ld = self._floats(task.dst) + before, len(cols)
        a.parts = <dl_part *> self.parts.data
        return 0

    cdef float *_floats(self, str name) except NULL:
        return (<Memory?> self.buffers[name]).floats()

    cdef const dl_rows *_rows(self, str name) except NULL:
        return &(<Rows?> self.buffers[name]).view

    def use(self, int64_t context, int64_t source, int64_t positions):
        """Let passes work on a context, which first gets the first positions of another one, source.

        ValueError where there are no such contexts or positions.
        """
        cdef Step *steps = <Step *> self.steps.data
        cdef int64_t s
        if not (0 <= context < self.contexts and 0 <= source < self.contexts):
            raise ValueError(f"contexts {context} and {source} of {self.contexts}")
        if not 0 <= positions <= self.seq_len:
            raise ValueError(f"{positions} positions of {self.seq_len}")
        self.cache.use(context, source, positions)
        for s in range(self.run_.n_steps):
            if steps[s].op == ATTEND:
                steps[s].attention.keys = self.cache.keys(steps[s].layer, 0)
                steps[s].attention.values = self.cache.values(steps[s].layer, 0)

    def run(self, const int32_t[::1] ids, int64_t position, int64_t first_logits,
            int form=AS_FLOAT):
        """Evaluate T tokens at position; logits float32 (T - first_logits, local_vocab), a view.

        The view is valid until the next call. form: how a broadcast sends rows, the same on
        all nodes; only the root's ids are looked at. ValueError where ids, position or the
        number of logits are out of range; nothing is evaluated then. TransportError where a
        node failed; the executor cannot go on then.
        """
        cdef int64_t T = ids.shape[0], t, rows = T - first_logits
        if not 1 <= T <= self.max_batch or not 0 <= position <= self.seq_len - T:
            raise ValueError(f"{T} tokens at position {position} do not fit")
        if not 0 <= rows <= min(T, self.max_logits):
            raise ValueError(f"{rows} rows of logits do not fit")
        for t in range(T):
            if not 0 <= ids[t] < self.vocab_size:
                raise ValueError(f"token id {ids[t]} is out of range")
        cdef Pass *run = &self.run_
        run.batch.tokens, run.batch.position, run.batch.ids = T, position, &ids[0]
        run.batch.first_tail, run.form = first_logits, form
        memset(run.counters, 0, run.n_steps * self.threads * sizeof(dl_counter))
        memset(run.nanoseconds, 0, run.n_steps * sizeof(int64_t))
        cdef RopeCache turns = self.turns
        cdef KVCache cache = self.cache
        self.began = dl_now()
        with nogil, parallel(num_threads=self.threads):
            _work(run, turns, cache)
        if self.communicator is not None:
            self.communicator.check()
        if rows == 0:
            return np.empty((0, self.local_vocab), np.float32)
        return np.asarray(<float[:rows, :self.local_vocab]> self.logits)

    def tasks(self):
        """The task of each step of milliseconds()."""
        return list(self.step_tasks)

    def milliseconds(self):
        """Wall-clock time of each step of the last pass: float64 (steps,)."""
        return np.asarray(<int64_t[:self.run_.n_steps]> self.run_.nanoseconds) / 1e6

    def transfers(self):
        """Which steps are transfers: bool (steps,)."""
        return np.array([task.kind is Kind.TRANSFER for task in self.step_tasks])

    def memory(self):
        """Bytes reserved for the KV cache, and for all buffers together."""
        others = sum(buffer.nbytes for buffer in self.buffers.values()) + self.turns.nbytes
        others += self.communicator.nbytes if self.communicator is not None else 0
        own = (self.steps, self.counters, self.nanoseconds, self.barrier, self.scratch, self.parts)
        return {"kv_cache": self.cache.nbytes, "buffers": others + sum(m.nbytes for m in own)}


cdef object _float_rows(Memory memory, int64_t k):
    """A float buffer as rows that a matmul reads."""
    cdef Rows rows = Rows.__new__(Rows, 0, k, False)
    rows.memory = memory
    rows.view.x = memory.floats()
    return rows


def _scaling(spec):
    scaling = spec.rope_scaling
    if spec.rope_type is not RopeType.LLAMA31 or scaling is None:
        return None
    return (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
            scaling.original_seq_len)


cdef void _work(Pass *run, RopeCache turns, KVCache cache) noexcept nogil:
    """What every thread does: all steps, a share of the items of each."""
    cdef int thread = dl_thread_id(), team = dl_team_size()
    cdef int64_t s, items, before = dl_now(), now
    cdef int owner
    cdef float *scratch = run.scratch + thread * run.scratch_width
    for s in range(run.n_steps):
        items = step_items(run, &run.steps[s])
        if items == 0:
            continue
        for owner in range(thread, thread + team):
            _share(run, s, items, owner % team, team, scratch, turns, cache)
        dl_barrier_wait(run.barrier, team)
        # A later step may have failed already, but this thread must still come to its barrier.
        if run.failed and run.failed <= s + 1:
            break
        if thread == 0:
            now = dl_now()
            run.nanoseconds[s] = now - before
            before = now


cdef inline void _share(Pass *run, int64_t s, int64_t items, int owner, int team, float *scratch,
                        RopeCache turns, KVCache cache) noexcept nogil:
    """What is left of the items of the thread `owner` in step s."""
    cdef int64_t first = items * owner // team, count = items * (owner + 1) // team - first
    cdef dl_counter *taken = &run.counters[s * run.threads + owner]
    cdef int64_t i = dl_counter_next(taken, count)
    while i < count:
        step_item(run, &run.steps[s], first + i, scratch, turns, cache)
        i = dl_counter_next(taken, count)
