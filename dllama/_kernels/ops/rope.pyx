"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.2).

Pair i of a head is rotated by position * frequency i radians. Angles are computed in float64, their
cosines and sines are kept as float32. Numbers of a head behind its pairs are not rotated.
"""

from cython.parallel cimport prange
from libc.math cimport cos, sin, sqrt
from libc.string cimport memcpy

import numpy as np

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.attention cimport Heads, KVGroup, heads_of, kv_group
from dllama._kernels.ops.kv_cache cimport (
    KVBlocks, KVCache, attention_kernels, dl_attention, dl_type_q80, kv_put,
)

# Pairs that turn by less than this, in radians per position, hardly turn within a context.
cdef double SLOW = 1e-4
# About the size of the larger elements of keys without their biases.
cdef double USUAL = 8.0


cdef class RopeCache:
    """Cosines and sines of all positions.

    Args:
        frequencies: of each pair, in radians per position; at least one.
        positions: number of positions, at least 1.
        factor: of all cosines and sines.
        threads: how many threads compute.

    Raises:
        ValueError: there is no pair, or no position.
    """

    def __cinit__(self, frequencies, int64_t positions, double factor=1.0, int threads=1):
        cdef int64_t p
        cdef double[::1] radians
        if not len(frequencies) or positions < 1:
            raise ValueError(
                f"a RoPE cache cannot have {positions} positions of {len(frequencies)} pairs"
            )
        self.positions, self.pairs = positions, len(frequencies)
        self.memory = Memory(positions * self.pairs * 2 * sizeof(float))
        self.radians = np.array(frequencies, np.float64)
        radians = self.radians
        for p in prange(positions, nogil=True, num_threads=threads, schedule="static"):
            _fill(<float *> self.at(p), p, radians, factor)

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self.memory.nbytes

    cdef const float *at(self, int64_t position) noexcept nogil:
        return <const float *> self.memory.data + position * self.pairs * 2

    def table(self):
        """Cosines and sines, float32 (positions, pairs) each."""
        cdef int64_t n = self.positions * self.pairs * 2
        both = np.asarray(<float[:n]> <float *> self.memory.data).reshape(-1, self.pairs, 2)
        return both[:, :, 0].copy(), both[:, :, 1].copy()


cdef void _fill(float *turns, int64_t position, const double[::1] radians,
                double factor) noexcept nogil:
    cdef int64_t i
    for i in range(radians.shape[0]):
        turns[2 * i] = <float> (factor * cos(position * radians[i]))
        turns[2 * i + 1] = <float> (factor * sin(position * radians[i]))


cdef void rope_head(float *x, const float *turns, int64_t pairs, bint halves) noexcept nogil:
    cdef int64_t i, near, far
    cdef float c, s, a, b
    for i in range(pairs):
        near = i if halves else 2 * i
        far = i + pairs if halves else 2 * i + 1
        c, s, a, b = turns[2 * i], turns[2 * i + 1], x[near], x[far]
        x[near] = a * c - b * s
        x[far] = a * s + b * c


def rope(const float[:, :, ::1] x, RopeCache cache, int64_t position=0, bint halves=False,
         int threads=1):
    """A rotated copy of x.

    Args:
        x: float32 (T, heads, head_dim); row t is at position `position` + t.
        cache: cosines and sines.
        position: position of the first row.
        halves: pair i of n is (i, i + n), else (2i, 2i + 1).
        threads: how many threads compute.

    Raises:
        ValueError: the cache has more pairs than a head, or lacks some positions.
    """
    cdef int64_t T = x.shape[0], H = x.shape[1], i
    if x.shape[2] < 2 * cache.pairs or position < 0 or position + T > cache.positions:
        raise ValueError(
            f"cannot rotate {T} rows of head_dim {x.shape[2]} from position {position}: the "
            f"cache has {cache.positions} positions of {cache.pairs} pairs"
        )
    out = np.array(x)
    cdef float[:, :, ::1] y = out
    for i in prange(T * H, nogil=True, num_threads=threads):
        rope_head(&y[i // H, i % H, 0], cache.at(position + i // H), cache.pairs, halves)
    return out


cdef struct Rope:
    float *qkv                      # [T][ld]: queries, keys, values, head by head
    int64_t ld
    Heads heads
    const float *turns              # [positions][pairs][2], or NULL: nothing is rotated
    const float *long_turns         # the same for long texts
    int64_t pairs
    bint halves
    const float *q_norm             # [size] or, with squares or apart, [count][size]; or NULL
    const float *k_norm             # [size], or [kv_count][size]
    int64_t apart                   # numbers from the weights of a head to those of the next, or 0
    bint centred                    # LayerNorm of each head, else RMSNorm
    float epsilon
    const float *squares            # [T][q_heads + kv_heads] of all nodes, or NULL
    int64_t q_heads, kv_heads
    const float *constant           # [kv_count][size], or NULL: what keys are stored without
    const float *factor             # [kv_count][size]: of what is stored; queries are divided by it
    bint stores                     # keys and values; otherwise the layer has none of its own
    bint keys_as_values             # values are the keys before their norm and RoPE
    const float *ones               # [value_size], or NULL: values are not normalised
    const KVBlocks *kv
    const dl_attention *floats
    int64_t layer                   # of the cache
    int64_t blocks                  # where the blocks of this cache begin in those of the batch


cdef int64_t rope_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const Rope *> op).heads.kv_count


cdef int rope_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """One KV head of one row: normalise and rotate its queries and key, store key and value."""
    cdef const Rope *r = <const Rope *> op
    cdef int64_t kv_head = i % r.heads.kv_count, t = i // r.heads.kv_count, size = r.kv.size, h
    cdef int64_t position = run.batch.positions[t]
    cdef KVGroup g = kv_group(&r.heads, kv_head)
    cdef const float *turns = r.long_turns if run.batch.lengthened[t] else r.turns
    cdef float *q = r.qkv + t * r.ld
    cdef float *k = q + (r.heads.count + kv_head) * size
    cdef float *v = k + r.heads.kv_count * size
    cdef float q_factor = 0, k_factor = 0
    if turns != NULL:
        turns += position * 2 * r.pairs
    if r.squares != NULL:
        q_factor = _width_factor(r, t, 0, r.q_heads)
        k_factor = _width_factor(r, t, r.q_heads, r.kv_heads)
    for h in range(g.first, g.first + g.count):
        if r.squares != NULL:
            _weigh(q + h * size, r.q_norm + h * size, q_factor, size)
        elif r.q_norm != NULL:
            _norm(run, r, q + h * size, r.q_norm + h * r.apart)
        if turns != NULL:
            rope_head(q + h * size, turns, r.pairs, r.halves)
        if r.factor != NULL:
            _divide(q + h * size, r.factor + kv_head * size, size)
    if not r.stores:
        return 0
    if r.ones != NULL:
        run.floats.rmsnorm(k if r.keys_as_values else v, r.ones, r.epsilon, r.kv.value_size, v)
    elif r.keys_as_values:
        memcpy(v, k, size * sizeof(float))
    if r.squares != NULL:
        _weigh(k, r.k_norm + kv_head * size, k_factor, size)
    elif r.k_norm != NULL:
        _norm(run, r, k, r.k_norm + kv_head * r.apart)
    if turns != NULL:
        rope_head(k, turns, r.pairs, r.halves)
    if r.constant != NULL:
        for h in range(size):
            k[h] = (k[h] - r.constant[kv_head * size + h]) * r.factor[kv_head * size + h]
    kv_put(r.kv, r.floats, run.batch.blocks[r.blocks + t], r.layer, kv_head, position, k, v)
    return 0


cdef inline void _norm(const Pass *run, const Rope *r, float *x, const float *weight) noexcept nogil:
    """The norm of a head, in place."""
    if r.centred:
        run.floats.layernorm(x, weight, NULL, r.epsilon, r.kv.size, x)
    else:
        run.floats.rmsnorm(x, weight, r.epsilon, r.kv.size, x)


cdef inline float _width_factor(const Rope *r, int64_t t, int64_t first, int64_t heads) noexcept nogil:
    """1 / sqrt(mean square of the numbers of all heads + epsilon)."""
    cdef const float *squares = r.squares + t * (r.q_heads + r.kv_heads) + first
    cdef double total = 0
    cdef int64_t h
    for h in range(heads):
        total += squares[h]
    return <float> (1.0 / sqrt(total / (heads * r.kv.size) + r.epsilon))


cdef inline void _weigh(float *x, const float *weight, float factor, int64_t n) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        x[j] = x[j] * factor * weight[j]


cdef inline void _divide(float *x, const float *by, int64_t n) noexcept nogil:
    cdef int64_t j
    for j in range(n):
        x[j] /= by[j]


cdef class RopeOp(Op):
    """Normalises (if there is a weight) and rotates q and k of src in place (if the heads have
    RoPE); normalises v (if the heads say so); stores k and v. In a layer that reads the keys and
    values of another one, there is only q.

    Biases of keys can be hundreds of times as large as the rest of a block, whose rounding they would
    spoil in a cache of Q80. It stores keys without the biases of pairs that hardly turn: if the same
    vector is taken from all keys of a head, its scores move by the same number, and softmax stays the
    same. Other pairs with large biases are divided by a power of 2, and multiplied in the queries.
    """

    cdef Rope op
    cdef KVCache cache
    cdef RopeCache turns, long_turns
    cdef float[::1] constant, factor, ones

    def __init__(self, Bindings b, task):
        cdef Rope *r = &self.op
        rope = task.heads.rope
        self.cache = b.caches[task.heads.cache]
        size, positions = self.cache.view.size, b.max_positions
        radians, r.turns, r.long_turns, r.halves = np.zeros(0), NULL, NULL, False
        if rope is not None:
            self.turns = rope_cache(b, rope.frequencies, positions, rope.factor)
            self.long_turns = rope_cache(b, rope.long_frequencies or rope.frequencies, positions,
                                         rope.factor)
            radians, r.turns, r.halves = self.turns.radians, self.turns.at(0), rope.halves
            r.pairs, r.long_turns = self.turns.pairs, self.long_turns.at(0)
        r.qkv, r.ld = b.floats(task.src), b.rows(task.src).k
        r.heads = heads_of(task.heads)
        r.kv, r.layer = &self.cache.view, task.heads.cache_layer
        r.blocks = <int64_t> task.heads.cache * b.batch_rows
        r.floats, r.epsilon = attention_kernels(), task.epsilon
        r.centred = task.centred
        if task.squares:
            r.squares, r.q_heads = b.floats(task.squares), task.heads.all
            r.kv_heads = b.rows(task.squares).k - r.q_heads
        if task.squares or task.apart:
            r.apart = size
            r.q_norm = b.vector(task.weight, (r.heads.count + r.heads.kv_count) * size)
            r.k_norm = r.q_norm + <int64_t> (r.heads.count * size)
        elif task.weight:
            r.q_norm = b.vector(task.weight, (2 if task.heads.stores else 1) * size)
            r.k_norm = r.q_norm + <int64_t> size
        r.stores, r.keys_as_values = task.heads.stores, task.heads.keys_as_values
        if task.heads.value_norm:
            self.ones = np.ones(self.cache.view.value_size, np.float32)
            r.ones = &self.ones[0]
        if task.bias and r.kv.type == dl_type_q80:
            self.constant, self.factor = _of_biases(
                np.asarray(b.vectors[task.bias]).reshape(-1, size), radians, r.halves,
                1.0 if rope is None else rope.factor)
            r.constant, r.factor = &self.constant[0], &self.factor[0]
        self.stage(rope_items, rope_item, r)


cdef RopeCache rope_cache(Bindings b, frequencies, int64_t positions, double factor):
    threads = b.threads
    return b.shared(("rope", frequencies, factor),
                    lambda: RopeCache(frequencies, positions, factor, threads))


def _of_biases(biases, radians, halves, rope_factor):
    """From the biases of keys, (heads, size): those of numbers that hardly turn, and the factors of
    all numbers, float32 (heads * size,) each."""
    rotated, rest = np.split(biases, [2 * radians.size], axis=1)
    pairs = rope_factor * (rotated.reshape(-1, 2, radians.size) if halves
                           else rotated.reshape(-1, radians.size, 2))
    axis = 1 if halves else 2
    slow = np.expand_dims(radians < SLOW, 0 if halves else 1)
    constant = np.where(slow, pairs, 0)
    size = np.sqrt(np.square(pairs - constant).sum(axis=axis, keepdims=True))
    factor = np.exp2(-np.floor(np.log2(np.maximum(size / USUAL, 1))))
    factor = np.broadcast_to(factor, pairs.shape)
    both = ((constant.reshape(rotated.shape), rest), (factor.reshape(rotated.shape), np.ones_like(rest)))
    return tuple(np.concatenate(one, axis=1).reshape(-1).astype(np.float32) for one in both)
