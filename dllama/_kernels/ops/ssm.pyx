"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), as in Falcon-H1.

Each value head has a state S of K x V numbers, and reads the k and q of a key head, which several
value heads may share. They are the B and C of the paper, values are its x. Values, keys and queries
pass a causal convolution first. A row at a position does

  dt = softplus(a + dt_bias), clipped
  S = exp(-exp(a_log) * dt) * S + outer(k, dt * v)
  out = S^T q + skip * v

The result is multiplied by silu(z), before or after an RMSNorm over all value heads that share a key
head, or without one. Nodes may hold some of these heads each: then they exchange sums of squares.
"""

from libc.math cimport INFINITY, sqrtf
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport dl_floats, dl_isa, dl_span, float_kernels
from dllama._kernels.ops.states cimport (
    Recurrent, RecurrentOp, dl_deltas_of, exp_of, keep, padded, recall, softplus, state_at,
)


cdef struct Ssm:
    const Recurrent *heads          # src: v of value heads, k, q of key heads, z, a of value heads
    const float *rate               # [count] exp(a_log)
    const float *dt_bias            # [count]
    const float *skip               # [count]
    float least, most               # limits of dt
    bint gated                      # whether the result is multiplied by silu(z)
    float *squares                  # [T][squares_ld] of the value heads of this node; or NULL
    int64_t squares_ld


cdef int64_t ssm_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.n_spans * (<const Ssm *> op).heads.count


cdef int ssm_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """One value head of a span, row by row."""
    cdef const Ssm *s = <const Ssm *> op
    cdef const Recurrent *r = s.heads
    cdef const dl_span *span = &run.batch.spans[i // r.count]
    cdef int64_t head = i % r.count, t, row
    cdef float *state
    cdef float *out
    cdef float *change = scratch + r.states.size
    cdef float *o = change + r.states.change
    for t in range(-span.lag, 0):
        recall(r, span, t, head, change)
        _apply(s, state_at(r, span, t, head, scratch), change, change, o)
        keep(r, span, t, head, change)
    for t in range(span.count):
        state = state_at(r, span, t, head, scratch)
        row = span.first + t
        out = r.out + row * r.out_ld + head * r.V
        _row(run.floats, s, r.src + row * r.ld, state, head, change, out)
        keep(r, span, t, head, change)
        if s.squares != NULL:
            s.squares[row * s.squares_ld + head] = r.f.squares(out, r.V)
    return 0


cdef inline void _row(const dl_floats *f, const Ssm *s, const float *x, float *state, int64_t head,
                      float *change, float *out) noexcept nogil:
    """A row of a head; x: the row of src. Its change becomes k, dt * v and the decay."""
    cdef const Recurrent *r = s.heads
    cdef int64_t key = (head + r.skipped) // r.group, width = padded(r.V), j
    cdef float *v = change + r.K
    cdef float *o = change + r.states.change
    cdef const float *values = x + head * r.V
    cdef const float *k = x + r.count * r.V + key * r.K
    cdef const float *z = x + r.channels
    cdef float dt = <float> softplus(f, z[r.count * r.V + head] + s.dt_bias[head])
    dt = min(max(dt, s.least), s.most)
    memcpy(change, k, r.K * sizeof(float))
    memset(v, 0, (width + 2) * sizeof(float))
    for j in range(r.V):
        v[j] = dt * values[j]
    v[width] = exp_of(f, -s.rate[head] * dt)
    _apply(s, state, k + r.keys * r.K, change, o)
    for j in range(r.V):
        o[j] += s.skip[head] * values[j]
    if s.gated:
        f.swiglu(z + head * r.V, o, r.V, out)
    else:
        memcpy(out, o, r.V * sizeof(float))


cdef inline void _apply(const Ssm *s, float *state, const float *q, const float *change,
                        float *o) noexcept nogil:
    """Change the state of a head; o[width]: S^T q."""
    cdef const Recurrent *r = s.heads
    cdef const float *v = change + r.K
    r.f.scan(state, q, change, v, r.K, padded(r.V), v[padded(r.V)], o)


cdef class SsmOp(RecurrentOp):
    """dst = the scan of src. The vector is conv, its bias if there is one, a_log, dt_bias and skip.

    task.squares: the buffer for the sum of the squares of each value head, if a norm follows.
    """

    cdef Ssm op
    cdef float[::1] rate

    def __init__(self, Bindings b, task):
        cdef Ssm *s = &self.op
        cdef Recurrent *r = &self.heads
        cdef const float *weight
        cdef int64_t i, biases
        ssm = task.ssm
        s.heads = r
        self.bind(b, task, task.delta.value_dim + 1)
        biases = r.channels if ssm.conv_bias else 0
        weight = b.vector(task.weight, r.channels * r.taps + biases + 3 * r.count)
        weight = self.convolve(weight, ssm.conv_bias)
        self.rate = np.empty(r.count, np.float32)
        for i in range(r.count):
            self.rate[i] = exp_of(float_kernels(), weight[i])
        s.rate, s.dt_bias, s.skip = &self.rate[0], weight + r.count, weight + 2 * r.count
        s.least, s.most, s.gated = ssm.least_step, ssm.most_step or INFINITY, not ssm.norm_first
        s.squares, s.squares_ld = NULL, 0
        if task.squares:
            s.squares, s.squares_ld = b.floats(task.squares), b.rows(task.squares).k
            if ssm.first + r.count > s.squares_ld:
                raise ValueError(f"{task.squares} has {s.squares_ld} columns, not one for each head")
            s.squares += <int64_t> ssm.first
        self.stage(ssm_items, ssm_item, s)


cdef struct SsmNorm:
    float *x                        # [T][ld], from the first value head of this node on
    int64_t ld
    const float *z                  # [T][z_ld], from the first column on; NULL: no gate follows
    int64_t z_ld
    const float *squares            # [T][all], of the value heads of all nodes
    int64_t all
    const float *weight             # [count][V]
    int64_t count, first            # value heads of this node, and the first of them
    int64_t group, V
    float epsilon


cdef int64_t norm_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const SsmNorm *> op).count


cdef int norm_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """A row of a value head."""
    cdef const SsmNorm *n = <const SsmNorm *> op
    cdef int64_t t = i // n.count, head = i % n.count, j
    cdef int64_t begin = (n.first + head) // n.group * n.group
    cdef const float *weight = n.weight + head * n.V
    cdef float *x = n.x + t * n.ld + head * n.V
    cdef float sum = 0, scale
    for j in range(begin, begin + n.group):
        sum += n.squares[t * n.all + j]
    scale = 1 / sqrtf(sum / <float> (n.group * n.V) + n.epsilon)
    for j in range(n.V):
        x[j] = x[j] * scale * weight[j]
    if n.z != NULL:
        run.floats.swiglu(n.z + t * n.z_ld + head * n.V, x, n.V, x)
    return 0


cdef class SsmNormOp(Op):
    """dst = its RMSNorm over the value heads that share a key head, times silu(z) of src if the gate follows.

    task.squares: the buffer with the sum of the squares of each value head.
    """

    cdef SsmNorm op

    def __init__(self, Bindings b, task):
        cdef SsmNorm *n = &self.op
        delta, ssm = task.delta, task.ssm
        n.count, n.first, n.group, n.V = delta.count, ssm.first, delta.group, delta.value_dim
        n.x, n.ld = b.floats(task.dst) + <int64_t> delta.offset, b.rows(task.dst).k
        n.z, n.z_ld = NULL, b.rows(task.src).k
        if ssm.norm_first:
            n.z = b.floats(task.src) + <int64_t> delta.channels
        n.squares, n.all, n.epsilon = b.floats(task.squares), b.rows(task.squares).k, task.epsilon
        n.weight = b.vector(task.weight, n.count * n.V)
        if n.all % n.group or n.first + n.count > n.all:
            raise ValueError(f"{task.squares} has {n.all} columns, expected one for each head")
        if n.ld < delta.offset + n.count * n.V or n.z_ld < delta.channels + n.count * n.V:
            raise ValueError(f"{task.dst} has {n.ld} columns, {task.src} {n.z_ld}")
        self.stage(norm_items, norm_item, n)


def scan(const float[:, ::1] q, const float[:, ::1] k, const float[:, ::1] v,
         const float[::1] decay, const float[:, ::1] state):
    """S = decay * S + outer(k, v); out = S^T q, row by row.

    Args:
        q, k: float32 (T, K).
        v: float32 (T, V); V is a multiple of 16.
        decay: float32 (T,).
        state: S before the first row, float32 (K, V).

    Returns:
        float32 (T, V), and S after the last row.
    """
    cdef int64_t t, T = q.shape[0], K = q.shape[1], V = v.shape[1]
    if V % 16 or not k.shape[0] == v.shape[0] == decay.shape[0] == T \
            or not k.shape[1] == state.shape[0] == K or state.shape[1] != V:
        raise ValueError("shapes do not fit")
    tiles = np.array(np.asarray(state).reshape(K, V // 16, 16).swapaxes(0, 1), order="C")
    out = np.empty((T, V), np.float32)
    cdef float[:, :, ::1] s = tiles
    cdef float[:, ::1] y = out
    for t in range(T):
        dl_deltas_of(dl_isa()).scan(&s[0, 0, 0], &q[t, 0], &k[t, 0], &v[t, 0], K, V, decay[t],
                                    &y[t, 0])
    return out, tiles.swapaxes(0, 1).reshape(K, V)


def squares(const float[::1] x):
    """The sum of x^2 of float32 (n,), as a float32."""
    return dl_deltas_of(dl_isa()).squares(&x[0], x.shape[0]) if x.shape[0] else 0.0
