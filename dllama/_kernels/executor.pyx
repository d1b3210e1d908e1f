"""Runs a graph: all tasks of a pass on a team of threads, without the GIL.

Every task becomes an op (op.pxd) of one or more stages, and every stage has independent items. Each
thread has a share of the items of a stage. It takes them in order, so that it reads its rows of a
matrix as one stream, and then takes items that other threads have not begun. A stage ends when its
items are done (team.h). The result does not depend on which thread computes an item.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint8_t

import numpy as np

from dllama._kernels.comm.communicator cimport Communicator
from dllama._kernels.comm.exchange cimport Peers, advance
from dllama._kernels.halves cimport Halves
from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings, Pass, first_half
from dllama._kernels.ops.attention cimport keep_partials
from dllama._kernels.ops.elementwise cimport Rows, dl_span, float_kernels
from dllama._kernels.ops.kv_cache cimport Cache, KVCache
from dllama._kernels.ops.moe cimport Routes
from dllama._kernels.steps cimport Step, Steps
from dllama._kernels.team cimport Team, start

from dllama._kernels.interleave import LEAST_ROWS
from dllama._kernels.ops.states import StateCache
from dllama._kernels.ops.kv_cache import block_positions
from dllama._kernels.tasks import Kind, Storage


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "threads.h" nogil:
    int64_t dl_now()


# Fewest rows of a batch whose halves take turns.
cdef int64_t LEAST_HALVED = LEAST_ROWS


# What the threads of a pass work on.
cdef struct Run:
    Pass shared
    const Step *steps
    Peers *peers                    # NULL on one node
    float *scratch                  # [threads][scratch_width]
    int64_t scratch_width
    void *executor
    unsigned long caller            # the thread that runs the pass


cdef class Executor:
    """A graph (dllama.graph.graph) with its weights, buffers and KV cache.

    Args:
        graph: a dllama.graph.graph.Graph.
        matrices: PackedMatrix by name.
        vectors: float32 arrays by name.
        embeddings: by tensor, StoredRows (vocab, columns) that the graph looks up rows of.
        threads: how many threads compute.
        max_rows: most rows of a batch.
        max_logits: most rows of a batch whose logits are wanted.
        max_positions: most positions of a sequence.
        kv_type: how keys and values are stored, a WeightType: F32, F16 or Q80.
        kv_blocks: KV blocks of each cache of the graph.
        sequences: most sequences in a batch.
        lag: most positions of a sequence that its states have not taken in.
        communicator: links to the other nodes; None on one node.
        halves: whether the halves of a large batch take turns (interleave.py), the same on all nodes.

    Raises:
        KeyError: a task names a buffer, matrix or vector that does not exist.
        ValueError: a buffer, matrix or vector has the wrong size.
    """

    cdef Run run_
    cdef Team team
    cdef Steps steps
    cdef Memory scratch, positions, lengthened, row_blocks, wanted, spans, tables
    cdef Bindings bindings
    cdef Halves halves              # None: no pass is halved
    cdef bint halved                # the last pass was
    cdef object final_norm          # that of the wanted rows
    cdef tuple caches               # KVCache or StateCache of each shape in graph.caches
    cdef list windows               # of the caches; 0: no window
    cdef Communicator communicator
    cdef object interruption        # what a signal handler raised in a pass
    cdef float *logits              # [max_logits][local_vocab]
    cdef readonly int64_t max_rows, max_logits, max_positions, sequences, vocab_size, local_vocab
    cdef readonly int64_t lag
    cdef readonly int64_t table_size    # KV blocks of the longest sequence
    cdef readonly int threads
    cdef readonly int64_t began     # start of the last pass, in nanoseconds of the monotonic clock

    def __init__(self, graph, dict matrices, dict vectors, dict embeddings, *, int threads,
                 int64_t max_rows, int64_t max_logits, int64_t max_positions, int kv_type,
                 kv_blocks, int64_t sequences=1, int64_t lag=0, Communicator communicator=None,
                 bint halves=False):
        self.lag = lag
        self.threads, self.max_rows, self.max_positions = threads, max_rows, max_positions
        self.max_logits, self.sequences, self.vocab_size = max_logits, sequences, graph.vocab_size
        self.communicator = communicator
        self.run_.peers = NULL if communicator is None else &communicator.peers
        size = block_positions(max_positions)
        self.table_size = (max_positions + size - 1) // size
        self.caches = tuple(
            self._cache(shape, size, blocks, kv_type)
            for shape, blocks in zip(graph.caches, kv_blocks, strict=True)
        )
        self.windows = [shape.window for shape in graph.caches]
        buffers = {buffer.name: self._buffer(buffer) for buffer in graph.buffers}
        self.bindings = Bindings(
            buffers=buffers, matrices=matrices, vectors=vectors, embeddings=embeddings,
            caches=self.caches, communicator=communicator, threads=threads, max_rows=max_rows,
            max_positions=max_positions, table_size=self.table_size)
        self.logits = self.bindings.floats("logits")
        self.local_vocab = self.bindings.rows("logits").k
        self.steps = Steps(len(graph.tasks))
        self.steps.bind(self.bindings, graph.tasks, &self.run_.shared)
        norms = (op for op, task in zip(self.steps.ops, graph.tasks) if task.op == "norm" and task.tail)
        self.final_norm = next(norms, None)
        if halves and first_half(max_rows):
            self.halves = Halves(max_rows, max_logits, sequences)
            self.steps.bind_halves(self.bindings, graph, self.halves, &self.run_.shared)
        self._allocate()
        self.run_.executor = <void *> self
        self.team = start(threads, self.steps.count, _count, _item, _look, &self.run_)

    def _cache(self, shape, int64_t positions, int64_t blocks, int kv_type):
        if shape.delta is not None:
            return StateCache(shape.layers, shape.delta, positions, blocks, self.lag)
        return KVCache(shape.layers, shape.heads, shape.size, shape.values, positions, blocks,
                       kv_type, shape.shared)

    def _buffer(self, buffer):
        rows = (self.max_logits if buffer.wanted else self.max_rows) * buffer.rows
        if buffer.storage == Storage.ROUTES:
            return Routes(rows, **vars(buffer.routing))
        return Rows(rows, buffer.width, buffer.storage == Storage.Q80)

    cdef int _allocate(self) except -1:
        """Allocate what a pass needs besides the buffers of its tasks."""
        cdef Run *run = &self.run_
        run.steps, run.scratch_width = self.steps.all, self.steps.scratch
        self.scratch = Memory(self.threads * run.scratch_width * sizeof(float))
        self.positions = Memory(self.max_rows * sizeof(int32_t))
        self.lengthened = Memory(self.max_rows)
        self.row_blocks = Memory(len(self.caches) * self.max_rows * sizeof(int32_t))
        self.wanted = Memory(self.max_logits * sizeof(int32_t))
        self.spans = Memory(self.sequences * sizeof(dl_span))
        self.tables = Memory(
            self.sequences * len(self.caches) * self.table_size * sizeof(int32_t))
        run.scratch = self.scratch.floats()
        run.shared.threads, run.shared.floats = self.threads, float_kernels()
        run.shared.batch.positions = <int32_t *> self.positions.data
        run.shared.batch.lengthened = <uint8_t *> self.lengthened.data
        run.shared.batch.blocks = <int32_t *> self.row_blocks.data
        run.shared.batch.spans = <dl_span *> self.spans.data
        return 0

    def run(self, const int32_t[::1] ids, spans, wanted, copies=(), int encoding=0):
        """Evaluate a batch.

        Args:
            ids: int32 (T,), the token id of each row; only the root looks them up.
            spans: (number of rows, position of the first row, KV blocks, whether RoPE takes the
                frequencies for long texts, lag, tentative) for each sequence, in the order of the
                rows. KV blocks are, for each cache, those that the rows see, in the order of their
                positions; more of the sequence may follow. States have not taken in the last `lag`
                positions before the rows, and after the pass the last `tentative` ones.
            wanted: rows whose logits are wanted, ascending.
            copies: (cache, source, target) of KV blocks to copy first.
            encoding: how a broadcast sends rows, the same on all nodes.

        Returns:
            float32 (len(wanted), local_vocab), a view that is valid until the next call.

        Raises:
            ValueError: an argument is out of range; nothing was evaluated.
            TransportError: a node failed; the executor cannot be used any more.
            What a signal handler raises: the batch is not evaluated; with other nodes, the executor
                cannot be used any more.
        """
        cdef int64_t T = ids.shape[0], t, begin, end
        cdef Run *run = &self.run_
        cdef int cache, source, target
        if not 1 <= T <= self.max_rows:
            raise ValueError(f"the batch has {T} rows, expected 1 to {self.max_rows}")
        for t in range(T):
            if not 0 <= ids[t] < self.vocab_size:
                raise ValueError(f"token id {ids[t]} is out of range")
        self._set_spans(T, spans)
        self._set_wanted(T, wanted)
        for cache, source, target in copies:
            blocks = self.caches[cache].blocks if 0 <= cache < len(self.caches) else 0
            if not (0 <= source < blocks and 0 <= target < blocks):
                raise ValueError(f"cannot copy KV block {source} to {target}: there are {blocks}")
        for cache, source, target in copies:
            (<Cache> self.caches[cache]).copy(source, target)
        run.shared.batch.rows, run.shared.batch.ids = T, &ids[0]
        run.shared.encoding = encoding
        run.caller = PyThread_get_thread_ident()
        self.began = dl_now()
        if self.communicator is not None:
            self.communicator.peers.look, self.communicator.peers.work = _look, run
        self.halved = self.halves is not None and T >= LEAST_HALVED and self.halves.halve(&run.shared)
        begin = self.steps.whole if self.halved else 0
        end = self.steps.count if self.halved else self.steps.whole
        with nogil:
            self.team.run(begin, end)
        if self.communicator is not None:
            self.communicator.peers.look = NULL
        if self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            raise interruption
        if self.communicator is not None:
            self.communicator.check()
        if not run.shared.batch.n_wanted:
            return np.empty((0, self.local_vocab), np.float32)
        return np.asarray(<float[:run.shared.batch.n_wanted, :self.local_vocab]> self.logits)

    cdef int _set_spans(self, int64_t T, spans) except -1:
        """Set the sequence, position and KV block of each row."""
        cdef dl_span *span = <dl_span *> self.spans.data
        cdef int32_t *table = <int32_t *> self.tables.data
        cdef int32_t *positions = <int32_t *> self.positions.data
        cdef uint8_t *lengthened = <uint8_t *> self.lengthened.data
        cdef int64_t first = 0, partials = 0, count, position, lag, tentative, t
        cdef bint is_long
        if not 1 <= len(spans) <= self.sequences:
            raise ValueError(f"{len(spans)} sequences, expected 1 to {self.sequences}")
        for count, position, blocks, is_long, lag, tentative in spans:
            if count < 1 or first + count > T or not 0 <= position <= self.max_positions - count:
                raise ValueError(f"{count} rows at position {position} do not fit")
            if not (0 <= lag <= min(self.lag, max(0, position - 1)) and 0 <= tentative <= self.lag
                    and tentative < position + count and tentative <= lag + count):
                raise ValueError(f"states lag {lag} and then {tentative} positions behind {count} rows "
                                 f"at position {position}, expected at most {self.lag}")
            if len(blocks) != len(self.caches):
                raise ValueError(f"KV blocks of {len(blocks)} caches, expected {len(self.caches)}")
            for t in range(count):
                positions[first + t], lengthened[first + t] = <int32_t> (position + t), is_long
            for t in range(len(self.caches)):
                self._set_blocks(t, table + t * self.table_size, first, count, position, lag, blocks[t])
            span.first, span.count, span.position, span.blocks = first, count, position, table
            span.lag, span.tentative = lag, tentative
            partials = keep_partials(span, partials)
            first += count
            span += 1
            table += len(self.caches) * self.table_size
        if first != T:
            raise ValueError(f"the sequences have {first} rows, the batch has {T}")
        self.run_.shared.batch.n_spans = len(spans)
        return 0

    cdef int _set_blocks(self, int64_t cache, int32_t *table, int64_t first, int64_t count,
                         int64_t position, int64_t lag, ids) except -1:
        """Set the blocks of a sequence in a cache, and those of its rows."""
        cdef int32_t *blocks = <int32_t *> self.row_blocks.data + cache * self.max_rows
        cdef int64_t size = block_positions(self.max_positions), window = self.windows[cache], n, t
        cdef int64_t seen = position - lag if isinstance(self.caches[cache], StateCache) else position
        cdef int64_t begin = max(0, seen + 1 - window) // size if window else 0
        cdef int64_t end = (position + count + size - 1) // size
        cdef int64_t there = (<Cache> self.caches[cache]).blocks
        if not end - begin <= len(ids) <= self.table_size - begin:
            raise ValueError(f"{len(ids)} KV blocks for {count} rows at position {position}, "
                             f"expected {end - begin} to {self.table_size - begin}")
        for n in range(len(ids)):
            table[begin + n] = ids[n]
            if not 0 <= table[begin + n] < there:
                raise ValueError(f"there is no KV block {table[begin + n]} of {there}")
        for t in range(count):
            blocks[first + t] = table[(position + t) // size]
        return 0

    cdef int _set_wanted(self, int64_t T, wanted) except -1:
        """Set the rows whose logits are wanted."""
        cdef int32_t *rows = <int32_t *> self.wanted.data
        cdef int64_t n, least = 0, row
        if len(wanted) > self.max_logits:
            raise ValueError(f"logits of {len(wanted)} rows, expected at most {self.max_logits}")
        for n in range(len(wanted)):
            row = wanted[n]
            if not least <= row < T:
                raise ValueError(f"logits of row {row}, expected {least} to {T - 1}, ascending")
            rows[n], least = <int32_t> row, row + 1
        self.run_.shared.batch.wanted, self.run_.shared.batch.n_wanted = rows, len(wanted)
        return 0

    def states(self, rows):
        """Rows of the last pass as the final norm leaves them, whether their logits were wanted or not.

        Args:
            rows: of the batch.

        Returns:
            float32 (len(rows), D), D numbers of the residual stream.

        Raises:
            ValueError: there is no such row.
        """
        wanted = np.array(rows, np.int64)
        if ((wanted < 0) | (wanted >= self.run_.shared.batch.rows)).any():
            raise ValueError(f"there are {self.run_.shared.batch.rows} rows, not {list(rows)}")
        if self.halved:
            wanted = np.array([self.halves.place(row) for row in wanted], np.int64)
        return self.final_norm.of_rows(wanted)

    def tasks(self):
        """The task of each stage, in the order of milliseconds(), and the half of the batch that it
        works on: 0 or 1, or None for all rows."""
        return list(self.steps.labels)

    def milliseconds(self):
        """Wall-clock milliseconds of each stage of the last pass: float64 (stages,)."""
        cdef double[::1] times = np.zeros(self.steps.count)
        cdef int64_t s
        for s in range(self.steps.count):
            if (s >= self.steps.whole) == self.halved:
                times[s] = self.team.nanoseconds(s) / 1e6
        return np.asarray(times)

    def transfers(self):
        """Whether each stage is a transfer: bool (stages,)."""
        return np.array([task.kind is Kind.TRANSFER for task, _ in self.steps.labels])

    def memory(self):
        """Bytes reserved for the KV cache and for all buffers: {"kv_cache": n, "buffers": n}."""
        own = (self.steps.memory, self.team, self.scratch, self.positions, self.lengthened,
               self.row_blocks, self.wanted, self.spans, self.tables)
        others = self.bindings.nbytes + sum(memory.nbytes for memory in own)
        others += self.halves.nbytes if self.halves is not None else 0
        others += self.communicator.nbytes if self.communicator is not None else 0
        return {"kv_cache": sum(cache.nbytes for cache in self.caches), "buffers": others}


cdef int _look(void *work) noexcept nogil:
    """Whether a signal handler has raised an exception, which ends the pass. Only the calling thread
    heeds signals."""
    if (<Run *> work).caller != PyThread_get_thread_ident():
        return 0
    with gil:
        return _heed_signals(<Executor> (<Run *> work).executor)


cdef int _heed_signals(Executor executor) noexcept:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        executor.interruption = error
        if executor.communicator is not None:
            executor.communicator.peers.interrupted = 1
    return executor.interruption is not None


cdef int64_t _count(void *work, int64_t s) noexcept nogil:
    """The items of stage s in this pass. Between stages, exchanges that have begun go on."""
    cdef const Run *run = <const Run *> work
    cdef const Step *step = &run.steps[s]
    if run.peers != NULL and run.peers.n_ended < run.peers.n_begun:
        advance(run.peers)  # a failure is found again where the exchange ends
    return step.stage.items(step.run, step.stage.op)


cdef int _item(void *work, int64_t s, int64_t i, int thread) noexcept nogil:
    """Do item i of stage s."""
    cdef const Run *run = <const Run *> work
    cdef const Step *step = &run.steps[s]
    return step.stage.item(step.run, step.stage.op, i, run.scratch + thread * run.scratch_width)
