"""Gated delta networks (Yang et al. 2024, arXiv 2412.06464, as in Qwen3-Next), and gated attention.

Each value head has a state S of K x V numbers, and reads the q and k of a key head, which several
value heads may share. Queries, keys and values pass a causal convolution first. A row at a position
does

  q, k = q / |q| / sqrt(K), k / |k|
  S = exp(-exp(a_log) * softplus(a + dt_bias)) * S
  S += outer(k, sigmoid(b) * (v - S^T k))
  out = silu(z) * RMSNorm(S^T q)

The rows of a span are done one after another, so the result does not depend on the batch.

States lie in blocks like those of the KV cache. Block i of a sequence has the state after the last
evaluated one of the positions that a KV block i has. A row at the first of these positions goes on
from the state of block i - 1, or from zeros, and leaves that block as it is.
"""

from libc.math cimport fabs
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport dl_floats, dl_floats_of, dl_isa, dl_span
from dllama._kernels.ops.kv_cache cimport Cache


cdef extern from "simd/delta.h" nogil:
    ctypedef struct dl_deltas:
        void (*conv)(const float *const *x, const float *w, int64_t stride, int taps, int64_t n,
                     float *y) noexcept nogil
        void (*delta)(float *state, const float *q, const float *k, const float *v, int64_t K,
                      int64_t width, float decay, float beta, float *o) noexcept nogil
        void (*gate)(const float *x, const float *gate, int64_t n, float *y) noexcept nogil
    const dl_deltas *dl_deltas_of(int isa)
    double dl_log1p(double x)

cdef enum:
    CHANNELS = 64                   # of an item of the convolution
    MAX_TAPS = 16

# What is added to the sum of squares of a query or a key.
cdef float LEAST = 1e-6


# Blocks [block][layer] of S [heads][width / 16][K][16], then inputs [taps - 1][channels].
cdef struct States:
    char *data
    int64_t positions               # of a block
    int64_t layers, heads, size     # S of all heads of a layer begins a layer, of `size` floats each
    int64_t channels, past          # inputs of the convolution that are kept: past * channels floats

cdef inline float *_state(const States *s, int64_t block, int64_t layer) noexcept nogil:
    cdef int64_t floats = s.heads * s.size + s.past * s.channels
    return <float *> s.data + (block * s.layers + layer) * floats

cdef inline float *_inputs(const States *s, int64_t block, int64_t layer) noexcept nogil:
    return _state(s, block, layer) + s.heads * s.size

cdef inline int64_t _padded(int64_t count) noexcept nogil:
    return (count + 15) // 16 * 16


cdef class StateCache(Cache):
    """Memory for states of sequences.

    Args:
        layers: how many layers it is for.
        delta: the graph.Delta of any of them.
        positions: positions of a block, from block_positions.
        blocks: number of blocks.
    """

    cdef States view

    def __cinit__(self, int64_t layers, delta, int64_t positions, int64_t blocks):
        cdef States *s = &self.view
        s.positions, s.layers, s.heads = positions, layers, delta.count
        s.size = delta.key_dim * _padded(delta.value_dim)
        s.channels, s.past = delta.channels, delta.taps - 1
        self.blocks = blocks
        self.block_bytes = layers * (s.heads * s.size + s.past * s.channels) * sizeof(float)
        self.memory = Memory(blocks * self.block_bytes)
        s.data = self.memory.data


cdef struct Delta:
    float *src                      # [T][ld]: q, k of key heads, then v, z, b, a of value heads
    int64_t ld
    float *out                      # [T][out_ld], the value heads side by side
    int64_t out_ld
    int64_t count, keys             # value heads and key heads of this node
    int64_t group                   # value heads that read one key head, over all nodes
    int64_t skipped                 # value heads of the first key head that lower ranks hold
    int64_t K, V                    # numbers of a key and of a value
    int64_t channels                # columns of q, k and v
    int taps
    const float *conv               # [taps][channels]
    const float *rate               # [count] exp(a_log)
    const float *dt_bias            # [count]
    const float *norm               # [V]
    const float *q_scale            # [K], all 1 / K
    const float *k_scale            # [K], all 1 / sqrt(K)
    float epsilon
    const States *states
    int64_t layer                   # of the cache
    int64_t table                   # where the blocks of this cache begin in those of a span
    const dl_deltas *f


cdef inline int64_t _cuts(const Delta *d) noexcept nogil:
    return (d.channels + CHANNELS - 1) // CHANNELS


cdef int64_t conv_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.n_spans * _cuts(<const Delta *> op)


cdef inline float *_input(const Delta *d, const dl_span *span, float *past, int64_t c,
                          int64_t t) noexcept nogil:
    """Inputs of row t of a span, from channel c on; those before the span are in past."""
    if t < 0:
        return past + (d.taps - 1 + t) * CHANNELS
    return d.src + (span.first + t) * d.ld + c


cdef int conv_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """The convolution of some channels of a span, in place, from the last row to the first."""
    cdef const Delta *d = <const Delta *> op
    cdef const dl_span *span = &run.batch.spans[i // _cuts(d)]
    cdef const int32_t *table = span.blocks + d.table
    cdef const float *x[MAX_TAPS]
    cdef int64_t c = i % _cuts(d) * CHANNELS, n = min(<int64_t> CHANNELS, d.channels - c)
    cdef int64_t size = d.states.positions, p = span.position, past = d.taps - 1, block, end, t, j
    cdef float *kept
    memset(scratch, 0, past * CHANNELS * sizeof(float))
    if p:
        kept = _inputs(d.states, table[(p - 1) // size], d.layer) + c
        for j in range(past):
            memcpy(scratch + j * CHANNELS, kept + j * d.channels, n * sizeof(float))
    for block in range(p // size, (p + span.count - 1) // size + 1):
        end = min((block + 1) * size - p, span.count)
        kept = _inputs(d.states, table[block], d.layer) + c
        for j in range(past):
            memcpy(kept + j * d.channels, _input(d, span, scratch, c, end - past + j),
                   n * sizeof(float))
    for t in range(span.count - 1, -1, -1):
        for j in range(d.taps):
            x[j] = _input(d, span, scratch, c, t - past + j)
        d.f.conv(x, d.conv + c, d.channels, d.taps, n, _input(d, span, scratch, c, t))
    return 0


cdef int64_t delta_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.n_spans * (<const Delta *> op).count


cdef int delta_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """One value head of a span, row by row."""
    cdef const Delta *d = <const Delta *> op
    cdef const dl_span *span = &run.batch.spans[i // d.count]
    cdef int64_t head = i % d.count, t
    cdef float *state = NULL
    for t in range(span.count):
        state = _state_at(d, span.blocks + d.table, span.position + t, head)
        _row(run.floats, d, d.src + (span.first + t) * d.ld, state, head, scratch,
             d.out + (span.first + t) * d.out_ld + head * d.V)
    return 0


cdef inline float *_state_at(const Delta *d, const int32_t *table, int64_t position,
                             int64_t head) noexcept nogil:
    """The state of a head before a position."""
    cdef int64_t block = position // d.states.positions, size = d.states.size
    cdef float *state = _state(d.states, table[block], d.layer) + head * size
    if position == 0:
        memset(state, 0, size * sizeof(float))
    elif position % d.states.positions == 0:
        memcpy(state, _state(d.states, table[block - 1], d.layer) + head * size,
               size * sizeof(float))
    return state


cdef inline void _row(const dl_floats *f, const Delta *d, const float *x, float *state,
                      int64_t head, float *scratch, float *out) noexcept nogil:
    """A row of a head; x: the row of src."""
    cdef int64_t key = (head + d.skipped) // d.group, padded = _padded(d.V)
    cdef float *q = scratch
    cdef float *k = q + d.K
    cdef float *v = k + d.K
    cdef float *o = v + padded
    cdef const float *values = x + 2 * d.keys * d.K
    cdef const float *z = values + d.count * d.V
    cdef const float *b = z + d.count * d.V
    f.rmsnorm(x + key * d.K, d.q_scale, LEAST / d.K, d.K, q)
    f.rmsnorm(x + (d.keys + key) * d.K, d.k_scale, LEAST / d.K, d.K, k)
    memset(v, 0, padded * sizeof(float))
    memcpy(v, values + head * d.V, d.V * sizeof(float))
    d.f.delta(state, q, k, v, d.K, padded, _decay(f, b[d.count + head] + d.dt_bias[head], d.rate[head]),
              1 / (1 + _exp(f, -b[head])), o)
    f.rmsnorm(o, d.norm, d.epsilon, d.V, o)
    f.swiglu(z + head * d.V, o, d.V, out)


cdef inline float _exp(const dl_floats *f, float x) noexcept nogil:
    cdef float y
    f.exp_row(&x, 1, &y)
    return y


cdef inline float _decay(const dl_floats *f, float a, float rate) noexcept nogil:
    """exp(-rate * softplus(a))."""
    cdef double softplus = max(a, 0) + dl_log1p(_exp(f, <float> -fabs(a)))
    return _exp(f, <float> (-rate * softplus))


cdef class DeltaOp(Op):
    """dst = the gated delta rule of src. The vector is conv, a_log, dt_bias and norm."""

    cdef Delta op
    cdef StateCache cache
    cdef float[:, ::1] conv
    cdef float[::1] rate, scales

    def __init__(self, Bindings b, task):
        cdef Delta *d = &self.op
        cdef const float *weight
        cdef int64_t i
        delta = task.delta
        self.cache = b.caches[delta.cache]
        d.count, d.keys, d.group, d.skipped = delta.count, delta.keys, delta.group, delta.skipped
        d.K, d.V, d.taps, d.channels = delta.key_dim, delta.value_dim, delta.taps, delta.channels
        d.epsilon, d.states, d.layer = task.epsilon, &self.cache.view, delta.cache_layer
        d.table, d.f = <int64_t> delta.cache * b.table_size, dl_deltas_of(dl_isa())
        if not 1 <= d.taps <= MAX_TAPS:
            raise ValueError(f"a convolution cannot have {d.taps} taps")
        d.src, d.ld = b.floats(task.src), b.rows(task.src).k
        d.out, d.out_ld = b.floats(task.dst) + <int64_t> delta.offset, b.rows(task.dst).k
        if d.ld < d.channels + d.count * (d.V + 2) or d.out_ld < delta.offset + d.count * d.V:
            raise ValueError(f"{task.src} has {d.ld} columns, {task.dst} {d.out_ld}")
        weight = b.vector(task.weight, d.channels * d.taps + 2 * d.count + d.V)
        self.conv = np.empty((d.taps, d.channels), np.float32)
        for i in range(d.channels * d.taps):
            self.conv[i % d.taps, i // d.taps] = weight[i]
        weight += d.channels * d.taps
        self.rate = np.empty(d.count, np.float32)
        for i in range(d.count):
            self.rate[i] = _exp(dl_floats_of(dl_isa()), weight[i])
        self.scales = _scales(d.K)
        d.conv, d.rate = &self.conv[0, 0], &self.rate[0]
        d.q_scale, d.k_scale = &self.scales[0], &self.scales[d.K]
        d.dt_bias, d.norm = weight + d.count, weight + 2 * d.count
        self.scratch = max(2 * d.K + 2 * _padded(d.V), (d.taps - 1) * CHANNELS)
        self.stage(conv_items, conv_item, d)
        self.stage(delta_items, delta_item, d)


def _scales(size):
    """Weights of an RMSNorm that divide by the length, and queries by sqrt(size) as well."""
    return np.repeat([1 / size, size ** -0.5], size).astype(np.float32)


cdef struct Gate:
    const float *gate               # [T][ld], from the first column on
    int64_t ld
    float *x                        # [T][x_ld], from the first column on
    int64_t x_ld
    int64_t heads, size
    const dl_deltas *f


cdef int64_t gate_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const Gate *> op).heads


cdef int gate_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    cdef const Gate *g = <const Gate *> op
    cdef int64_t t = i // g.heads, at = i % g.heads * g.size
    cdef float *x = g.x + t * g.x_ld + at
    g.f.gate(x, g.gate + t * g.ld + at, g.size, x)
    return 0


cdef class GateOp(Op):
    """dst *= sigmoid of the columns of src from task.column on, for the query heads of the node."""

    cdef Gate op

    def __init__(self, Bindings b, task):
        cdef Gate *g = &self.op
        g.heads, g.size = task.heads.count, task.heads.size
        g.gate, g.ld = b.floats(task.src) + <int64_t> task.column, b.rows(task.src).k
        g.x, g.x_ld = b.floats(task.dst) + <int64_t> task.heads.offset, b.rows(task.dst).k
        if g.ld < task.column + g.heads * g.size or g.x_ld < task.heads.offset + g.heads * g.size:
            raise ValueError(f"{task.src} has {g.ld} columns, {task.dst} {g.x_ld}")
        g.f = dl_deltas_of(dl_isa())
        self.stage(gate_items, gate_item, g)


def causal_conv(const float[:, ::1] x, const float[:, ::1] weight, const float[:, ::1] past):
    """SiLU of a causal convolution of each channel.

    Args:
        x: float32 (T, C).
        weight: float32 (taps, C); the last is that of the row itself.
        past: the rows before, float32 (taps - 1, C).

    Returns:
        float32 (T, C).
    """
    cdef int64_t t, T = x.shape[0], C = x.shape[1]
    cdef int j, taps = weight.shape[0]
    cdef const float *rows[MAX_TAPS]
    if not 1 <= taps <= MAX_TAPS or past.shape[0] != taps - 1 or not C == weight.shape[1] == past.shape[1]:
        raise ValueError("shapes of x, weight and past do not fit")
    out = np.empty((T, C), np.float32)
    cdef float[:, ::1] y = out
    for t in range(T):
        for j in range(taps):
            rows[j] = &x[t - taps + 1 + j, 0] if t + j >= taps - 1 else &past[t + j, 0]
        dl_deltas_of(dl_isa()).conv(rows, &weight[0, 0], C, taps, C, &y[t, 0])
    return out


def delta_rule(const float[:, ::1] q, const float[:, ::1] k, const float[:, ::1] v,
               const float[::1] decay, const float[::1] beta, const float[:, ::1] state):
    """S = decay * S; S += outer(k, beta * (v - S^T k)); out = S^T q, row by row.

    Args:
        q, k: float32 (T, K).
        v: float32 (T, V); V is a multiple of 16.
        decay, beta: float32 (T,).
        state: S before the first row, float32 (K, V).

    Returns:
        float32 (T, V), and S after the last row.
    """
    cdef int64_t t, T = q.shape[0], K = q.shape[1], V = v.shape[1]
    if V % 16 or not k.shape[0] == v.shape[0] == decay.shape[0] == beta.shape[0] == T \
            or not k.shape[1] == state.shape[0] == K or state.shape[1] != V:
        raise ValueError("shapes do not fit")
    tiles = np.array(np.asarray(state).reshape(K, V // 16, 16).swapaxes(0, 1), order="C")
    out = np.empty((T, V), np.float32)
    cdef float[:, :, ::1] s = tiles
    cdef float[:, ::1] y = out
    for t in range(T):
        dl_deltas_of(dl_isa()).delta(&s[0, 0, 0], &q[t, 0], &k[t, 0], &v[t, 0], K, V, decay[t],
                                     beta[t], &y[t, 0])
    return out, tiles.swapaxes(0, 1).reshape(K, V)


def sigmoid_gate(const float[::1] x, const float[::1] gate):
    """x * sigmoid(gate), all float32 (n,)."""
    if x.shape[0] != gate.shape[0]:
        raise ValueError(f"{gate.shape[0]} gates, expected {x.shape[0]}")
    out = np.empty(x.shape[0], np.float32)
    cdef float[::1] y = out
    if x.shape[0]:
        dl_deltas_of(dl_isa()).gate(&x[0], &gate[0], x.shape[0], &y[0])
    return out


def decay_of(float a, float rate):
    """exp(-rate * softplus(a)), as a float32."""
    return _decay(dl_floats_of(dl_isa()), a, rate)
