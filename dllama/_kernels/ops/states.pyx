"""States of linear attention, and the causal convolution before it.

States lie in blocks like those of the KV cache. Block i of a sequence has the state after the last
evaluated one of the positions that a KV block i has. A row at the first of these positions goes on
from the state of block i - 1, or from zeros, and leaves that block as it is.

A state cannot give a position back. So it does not take in those that may turn out wrong: they are
tentative, and a copy of the state goes through them. What each of them changes is kept in the block of
the first of them. The next pass repeats the changes of those that were right, which needs no weights.
"""

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport dl_isa, dl_span
from dllama._kernels.ops.kv_cache cimport Cache


cdef inline float *_inputs(const States *s, int64_t block, int64_t layer) noexcept nogil:
    return state_of(s, block, layer) + s.heads * s.size


cdef inline float *_later(const States *s, int64_t block, int64_t layer) noexcept nogil:
    """Inputs of positions that the state has not taken in."""
    return _inputs(s, block, layer) + s.past * s.channels


cdef class StateCache(Cache):
    """Memory for states of sequences.

    Args:
        layers: how many layers it is for.
        delta: the graph.Delta of any of them.
        positions: positions of a block, from block_positions.
        blocks: number of blocks.
        lag: most positions of a text that its state has not taken in.
    """

    def __cinit__(self, int64_t layers, delta, int64_t positions, int64_t blocks, int64_t lag=0):
        cdef States *s = &self.view
        cdef int64_t width = padded(delta.value_dim)
        s.positions, s.layers, s.heads, s.lag = positions, layers, delta.count, lag
        s.size, s.change = delta.key_dim * width, delta.key_dim + width + 2
        s.channels, s.past = delta.channels, delta.taps - 1
        s.floats = s.heads * (s.size + lag * s.change) + (s.past + lag) * s.channels
        self.blocks, self.block_bytes = blocks, layers * s.floats * sizeof(float)
        self.memory = Memory(blocks * self.block_bytes)
        s.data = self.memory.data


cdef inline int64_t _cuts(const Recurrent *r) noexcept nogil:
    return (r.channels + CHANNELS - 1) // CHANNELS


cdef int64_t conv_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.n_spans * _cuts(<const Recurrent *> op)


cdef inline float *_input(const Recurrent *r, const dl_span *span, float *past, int64_t c,
                          int64_t t) noexcept nogil:
    """Inputs of position t of a span, from channel c on; those before the span are in past."""
    if t < 0:
        return past + (r.taps - 1 + span.lag + t) * CHANNELS
    return r.src + (span.first + t) * r.ld + c


cdef inline void _copy(const float *rows, int64_t ld, int64_t count, int64_t n,
                       float *to) noexcept nogil:
    """to[count][CHANNELS] = the first n of rows[count][ld]."""
    cdef int64_t j
    for j in range(count):
        memcpy(to + j * CHANNELS, rows + j * ld, n * sizeof(float))


cdef inline int64_t _settled(const dl_span *span) noexcept nogil:
    """The first position that the states do not take in."""
    return span.position + span.count - span.tentative


cdef int conv_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """The convolution of some channels of a span, in place, from the last row to the first."""
    cdef const Recurrent *r = <const Recurrent *> op
    cdef const dl_span *span = &run.batch.spans[i // _cuts(r)]
    cdef const int32_t *table = span.blocks + r.table
    cdef const float *x[MAX_TAPS]
    cdef int64_t c = i % _cuts(r) * CHANNELS, n = min(<int64_t> CHANNELS, r.channels - c)
    cdef int64_t size = r.states.positions, p = span.position, past = r.taps - 1, block, end, t, j
    cdef int64_t begin = p - span.lag, settled = _settled(span)
    cdef float *kept
    memset(scratch, 0, past * CHANNELS * sizeof(float))
    if begin:
        kept = _inputs(r.states, table[(begin - 1) // size], r.layer) + c
        _copy(kept, r.channels, past, n, scratch)
    if span.lag:
        kept = _later(r.states, table[begin // size], r.layer) + c
        _copy(kept, r.channels, span.lag, n, scratch + past * CHANNELS)
    for block in range(begin // size, (settled - 1) // size + 1):
        end = min((block + 1) * size, settled) - p
        kept = _inputs(r.states, table[block], r.layer) + c
        for j in range(past):
            memcpy(kept + j * r.channels, _input(r, span, scratch, c, end - past + j),
                   n * sizeof(float))
    if span.tentative:
        kept = _later(r.states, table[settled // size], r.layer) + c
        for j in range(span.tentative):
            memcpy(kept + j * r.channels, _input(r, span, scratch, c, settled - p + j),
                   n * sizeof(float))
    for t in range(span.count - 1, -1, -1):
        for j in range(r.taps):
            x[j] = _input(r, span, scratch, c, t - past + j)
        r.f.conv(x, r.conv + c, r.channels, r.taps, r.bias + c if r.bias != NULL else NULL, n,
                 _input(r, span, scratch, c, t))
    return 0


cdef inline float *_state_in(const Recurrent *r, const dl_span *span, int64_t block,
                             int64_t head) noexcept nogil:
    return state_of(r.states, span.blocks[r.table + block], r.layer) + head * r.states.size


cdef float *state_at(const Recurrent *r, const dl_span *span, int64_t t, int64_t head,
                     float *scratch) noexcept nogil:
    cdef int64_t position = span.position + t, block = position // r.states.positions
    cdef int64_t nbytes = r.states.size * sizeof(float), settled = _settled(span)
    cdef float *state = _state_in(r, span, block, head) if position < settled else scratch
    if position == 0:
        memset(state, 0, nbytes)
    elif position == settled or (position < settled and position % r.states.positions == 0):
        memcpy(state, _state_in(r, span, (position - 1) // r.states.positions, head), nbytes)
    return state


cdef inline float *_changes(const Recurrent *r, const dl_span *span, int64_t position,
                            int64_t head) noexcept nogil:
    """Changes of a head from a position on, which is the first that the state has not taken in."""
    cdef const States *s = r.states
    cdef int64_t block = span.blocks[r.table + position // s.positions]
    return _later(s, block, r.layer) + s.lag * (s.channels + head * s.change)


cdef void recall(const Recurrent *r, const dl_span *span, int64_t t, int64_t head,
                 float *change) noexcept nogil:
    cdef const float *kept = _changes(r, span, span.position - span.lag, head)
    memcpy(change, kept + (span.lag + t) * r.states.change, r.states.change * sizeof(float))


cdef void keep(const Recurrent *r, const dl_span *span, int64_t t, int64_t head,
               const float *change) noexcept nogil:
    cdef int64_t settled = _settled(span), position = span.position + t
    if position >= settled:
        memcpy(_changes(r, span, settled, head) + (position - settled) * r.states.change, change,
               r.states.change * sizeof(float))


cdef class RecurrentOp(Op):
    """An op that changes states, and reads what a convolution makes of src."""

    cdef int bind(self, Bindings b, task, int64_t more) except -1:
        cdef Recurrent *r = &self.heads
        delta = task.delta
        self.cache = b.caches[delta.cache]
        r.count, r.keys, r.group, r.skipped = delta.count, delta.keys, delta.group, delta.skipped
        r.K, r.V, r.taps, r.channels = delta.key_dim, delta.value_dim, delta.taps, delta.channels
        r.states, r.layer = &self.cache.view, delta.cache_layer
        r.table, r.f = <int64_t> delta.cache * b.table_size, dl_deltas_of(dl_isa())
        if not 1 <= r.taps <= MAX_TAPS:
            raise ValueError(f"a convolution cannot have {r.taps} taps")
        r.src, r.ld = b.floats(task.src), b.rows(task.src).k
        r.out, r.out_ld = b.floats(task.dst) + <int64_t> delta.offset, b.rows(task.dst).k
        self.scratch = r.states.size + r.states.change + r.K + padded(r.V)
        if r.ld < r.channels + r.count * more or r.out_ld < delta.offset + r.count * r.V:
            raise ValueError(f"{task.src} has {r.ld} columns, {task.dst} {r.out_ld}")
        return 0

    cdef const float *convolve(self, const float *weight, bint bias) except NULL:
        cdef Recurrent *r = &self.heads
        cdef int64_t i
        self.conv = np.empty((r.taps, r.channels), np.float32)
        for i in range(r.channels * r.taps):
            self.conv[i % r.taps, i // r.taps] = weight[i]
        weight += r.channels * r.taps
        r.conv, r.bias = &self.conv[0, 0], weight if bias else NULL
        self.scratch = max(self.scratch, (r.taps - 1 + r.states.lag) * CHANNELS)
        self.stage(conv_items, conv_item, r)
        return weight + r.channels if bias else weight


def causal_conv(const float[:, ::1] x, const float[:, ::1] weight, const float[:, ::1] past,
                const float[::1] bias=None):
    """SiLU of a causal convolution of each channel.

    Args:
        x: float32 (T, C).
        weight: float32 (taps, C); the last is that of the row itself.
        past: the rows before, float32 (taps - 1, C).
        bias: float32 (C,), or None.

    Returns:
        float32 (T, C).
    """
    cdef int64_t t, T = x.shape[0], C = x.shape[1]
    cdef int j, taps = weight.shape[0]
    cdef const float *rows[MAX_TAPS]
    cdef const float *added = NULL
    if not 1 <= taps <= MAX_TAPS or past.shape[0] != taps - 1 or not C == weight.shape[1] == past.shape[1]:
        raise ValueError("shapes of x, weight and past do not fit")
    if bias is not None:
        if bias.shape[0] != C:
            raise ValueError(f"{bias.shape[0]} biases, expected {C}")
        added = &bias[0]
    out = np.empty((T, C), np.float32)
    cdef float[:, ::1] y = out
    for t in range(T):
        for j in range(taps):
            rows[j] = &x[t - taps + 1 + j, 0] if t + j >= taps - 1 else &past[t + j, 0]
        dl_deltas_of(dl_isa()).conv(rows, &weight[0, 0], C, taps, added, C, &y[t, 0])
    return out
