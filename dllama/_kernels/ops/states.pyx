"""States of linear attention, and the causal convolution before it.

States lie in blocks like those of the KV cache. Block i of a sequence has the state after the last
evaluated one of the positions that a KV block i has. A row at the first of these positions goes on
from the state of block i - 1, or from zeros, and leaves that block as it is.
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


cdef class StateCache(Cache):
    """Memory for states of sequences.

    Args:
        layers: how many layers it is for.
        delta: the graph.Delta of any of them.
        positions: positions of a block, from block_positions.
        blocks: number of blocks.
    """

    def __cinit__(self, int64_t layers, delta, int64_t positions, int64_t blocks):
        cdef States *s = &self.view
        s.positions, s.layers, s.heads = positions, layers, delta.count
        s.size = delta.key_dim * padded(delta.value_dim)
        s.channels, s.past = delta.channels, delta.taps - 1
        self.blocks = blocks
        self.block_bytes = layers * (s.heads * s.size + s.past * s.channels) * sizeof(float)
        self.memory = Memory(blocks * self.block_bytes)
        s.data = self.memory.data


cdef inline int64_t _cuts(const Recurrent *r) noexcept nogil:
    return (r.channels + CHANNELS - 1) // CHANNELS


cdef int64_t conv_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.n_spans * _cuts(<const Recurrent *> op)


cdef inline float *_input(const Recurrent *r, const dl_span *span, float *past, int64_t c,
                          int64_t t) noexcept nogil:
    """Inputs of row t of a span, from channel c on; those before the span are in past."""
    if t < 0:
        return past + (r.taps - 1 + t) * CHANNELS
    return r.src + (span.first + t) * r.ld + c


cdef int conv_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """The convolution of some channels of a span, in place, from the last row to the first."""
    cdef const Recurrent *r = <const Recurrent *> op
    cdef const dl_span *span = &run.batch.spans[i // _cuts(r)]
    cdef const int32_t *table = span.blocks + r.table
    cdef const float *x[MAX_TAPS]
    cdef int64_t c = i % _cuts(r) * CHANNELS, n = min(<int64_t> CHANNELS, r.channels - c)
    cdef int64_t size = r.states.positions, p = span.position, past = r.taps - 1, block, end, t, j
    cdef float *kept
    memset(scratch, 0, past * CHANNELS * sizeof(float))
    if p:
        kept = _inputs(r.states, table[(p - 1) // size], r.layer) + c
        for j in range(past):
            memcpy(scratch + j * CHANNELS, kept + j * r.channels, n * sizeof(float))
    for block in range(p // size, (p + span.count - 1) // size + 1):
        end = min((block + 1) * size - p, span.count)
        kept = _inputs(r.states, table[block], r.layer) + c
        for j in range(past):
            memcpy(kept + j * r.channels, _input(r, span, scratch, c, end - past + j),
                   n * sizeof(float))
    for t in range(span.count - 1, -1, -1):
        for j in range(r.taps):
            x[j] = _input(r, span, scratch, c, t - past + j)
        r.f.conv(x, r.conv + c, r.channels, r.taps, r.bias + c if r.bias != NULL else NULL, n,
                 _input(r, span, scratch, c, t))
    return 0


cdef float *state_at(const Recurrent *r, const int32_t *table, int64_t position,
                     int64_t head) noexcept nogil:
    cdef int64_t block = position // r.states.positions, size = r.states.size
    cdef float *state = state_of(r.states, table[block], r.layer) + head * size
    if position == 0:
        memset(state, 0, size * sizeof(float))
    elif position % r.states.positions == 0:
        memcpy(state, state_of(r.states, table[block - 1], r.layer) + head * size,
               size * sizeof(float))
    return state


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
        self.scratch = max(self.scratch, (r.taps - 1) * CHANNELS)
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
