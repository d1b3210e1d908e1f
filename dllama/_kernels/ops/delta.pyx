"""Gated delta networks (Yang et al. 2024, arXiv 2412.06464, as in Qwen3-Next), and gated attention.

Each value head has a state S of K x V numbers, and reads the q and k of a key head, which several
value heads may share. Queries, keys and values pass a causal convolution first. A row at a position
does

  q, k = q / |q| / sqrt(K), k / |k|
  S = exp(-exp(a_log) * softplus(a + dt_bias)) * S
  S += outer(k, sigmoid(b) * (v - S^T k))
  out = silu(z) * RMSNorm(S^T q)

The rows of a span are done one after another, so the result does not depend on the batch.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport dl_floats, dl_isa, dl_span, float_kernels
from dllama._kernels.ops.states cimport (
    Recurrent, RecurrentOp, dl_deltas, dl_deltas_of, exp_of, keep, padded, recall, softplus, state_at,
)

# What is added to the sum of squares of a query or a key.
cdef float LEAST = 1e-6


cdef struct Delta:
    const Recurrent *heads          # src: q, k of key heads, then v, z, b, a of value heads
    const float *rate               # [count] exp(a_log)
    const float *dt_bias            # [count]
    const float *norm               # [V]
    const float *q_scale            # [K], all 1 / K
    const float *k_scale            # [K], all 1 / sqrt(K)
    float epsilon


cdef int64_t delta_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.n_spans * (<const Delta *> op).heads.count


cdef int delta_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """One value head of a span, row by row."""
    cdef const Delta *d = <const Delta *> op
    cdef const Recurrent *r = d.heads
    cdef const dl_span *span = &run.batch.spans[i // r.count]
    cdef int64_t head = i % r.count, t
    cdef float *state = NULL
    cdef float *change = scratch + r.states.size
    cdef float *q = change + r.states.change
    for t in range(-span.lag, 0):
        recall(r, span, t, head, change)
        _apply(d, state_at(r, span, t, head, scratch), q, change, q + r.K)
        keep(r, span, t, head, change)
    for t in range(span.count):
        state = state_at(r, span, t, head, scratch)
        _row(run.floats, d, r.src + (span.first + t) * r.ld, state, head, change,
             r.out + (span.first + t) * r.out_ld + head * r.V)
        keep(r, span, t, head, change)
    return 0


cdef inline void _row(const dl_floats *f, const Delta *d, const float *x, float *state,
                      int64_t head, float *change, float *out) noexcept nogil:
    """A row of a head; x: the row of src. Its change becomes k, v, decay and beta."""
    cdef const Recurrent *r = d.heads
    cdef int64_t key = (head + r.skipped) // r.group, width = padded(r.V)
    cdef float *v = change + r.K
    cdef float *q = change + r.states.change
    cdef float *o = q + r.K
    cdef const float *values = x + 2 * r.keys * r.K
    cdef const float *z = values + r.count * r.V
    cdef const float *b = z + r.count * r.V
    f.rmsnorm(x + key * r.K, d.q_scale, LEAST / r.K, r.K, q)
    f.rmsnorm(x + (r.keys + key) * r.K, d.k_scale, LEAST / r.K, r.K, change)
    memset(v, 0, width * sizeof(float))
    memcpy(v, values + head * r.V, r.V * sizeof(float))
    v[width] = _decay(f, b[r.count + head] + d.dt_bias[head], d.rate[head])
    v[width + 1] = 1 / (1 + exp_of(f, -b[head]))
    _apply(d, state, q, change, o)
    f.rmsnorm(o, d.norm, d.epsilon, r.V, o)
    f.swiglu(z + head * r.V, o, r.V, out)


cdef inline void _apply(const Delta *d, float *state, const float *q, const float *change,
                        float *o) noexcept nogil:
    """Change the state of a head; o[width]: S^T q."""
    cdef const Recurrent *r = d.heads
    cdef int64_t width = padded(r.V)
    cdef const float *v = change + r.K
    r.f.delta(state, q, change, v, r.K, width, v[width], v[width + 1], o)


cdef inline float _decay(const dl_floats *f, float a, float rate) noexcept nogil:
    """exp(-rate * softplus(a))."""
    return exp_of(f, <float> (-rate * softplus(f, a)))


cdef class DeltaOp(RecurrentOp):
    """dst = the gated delta rule of src. The vector is conv, a_log, dt_bias and norm."""

    cdef Delta op
    cdef float[::1] rate, scales

    def __init__(self, Bindings b, task):
        cdef Delta *d = &self.op
        cdef Recurrent *r = &self.heads
        cdef const float *weight
        cdef int64_t i
        d.heads, d.epsilon = r, task.epsilon
        self.bind(b, task, task.delta.value_dim + 2)
        weight = b.vector(task.weight, r.channels * r.taps + 2 * r.count + r.V)
        weight = self.convolve(weight, False)
        self.rate = np.empty(r.count, np.float32)
        for i in range(r.count):
            self.rate[i] = exp_of(float_kernels(), weight[i])
        self.scales = _scales(r.K)
        d.rate, d.q_scale, d.k_scale = &self.rate[0], &self.scales[0], &self.scales[r.K]
        d.dt_bias, d.norm = weight + r.count, weight + 2 * r.count
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
    return _decay(float_kernels(), a, rate)
