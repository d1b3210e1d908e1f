"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.2).

Pair i of a head turns by position * theta^(-2i / head_dim) radians. Angles are
computed in float64 and kept as float32 cosines and sines.
"""

from cython.parallel cimport prange
from libc.math cimport cos, pow, sin

import numpy as np

cdef double TAU = 6.283185307179586


cdef class RopeCache:
    """Cosines and sines of `positions` positions for heads of head_dim (even) elements.

    scaling: None, or (factor, low_freq_factor, high_freq_factor, original_seq_len) of
    Llama 3.1. ValueError for an odd head_dim or fewer than 1 position.
    """

    def __cinit__(self, int64_t head_dim, int64_t positions, double theta, scaling=None,
                  int threads=1):
        cdef int64_t p
        cdef double[::1] radians
        if head_dim < 2 or head_dim % 2 or positions < 1:
            raise ValueError(f"no RoPE cache for {positions} positions and head_dim {head_dim}")
        self.positions, self.pairs = positions, head_dim // 2
        self.memory = Memory(positions * head_dim * sizeof(float))
        radians = np.array([
            _scale(pow(theta, -2.0 * i / head_dim), scaling) for i in range(self.pairs)
        ])
        for p in prange(positions, nogil=True, num_threads=threads, schedule="static"):
            _fill(<float *> self.at(p), p, radians)

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self.memory.nbytes

    cdef const float *at(self, int64_t position) noexcept nogil:
        return <const float *> self.memory.data + position * self.pairs * 2

    def table(self):
        """Cosines and sines, float32 (positions, head_dim / 2) each."""
        cdef int64_t n = self.positions * self.pairs * 2
        both = np.asarray(<float[:n]> <float *> self.memory.data).reshape(-1, self.pairs, 2)
        return both[:, :, 0].copy(), both[:, :, 1].copy()


cdef void _fill(float *turns, int64_t position, const double[::1] radians) noexcept nogil:
    cdef int64_t i
    for i in range(radians.shape[0]):
        turns[2 * i] = <float> cos(position * radians[i])
        turns[2 * i + 1] = <float> sin(position * radians[i])


cdef double _scale(double frequency, scaling):
    """Llama 3.1: long waves turn `factor` times slower, short ones as before, between a blend."""
    cdef double factor, low, high, turns, blend
    if scaling is None:
        return frequency
    factor, low, high = scaling[:3]
    turns = scaling[3] * frequency / TAU
    if turns > high:
        return frequency
    if turns < low:
        return frequency / factor
    blend = (turns - low) / (high - low)
    return (1.0 - blend) * frequency / factor + blend * frequency


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
    """Rotated copy of x, float32 (T, heads, head_dim); token t is at position + t.

    ValueError where positions or head_dim exceed the cache.
    """
    cdef int64_t T = x.shape[0], H = x.shape[1], i
    if x.shape[2] != 2 * cache.pairs or position < 0 or position + T > cache.positions:
        raise ValueError(
            f"cannot rotate {T} tokens of head_dim {x.shape[2]} from position {position}: the "
            f"cache has {cache.positions} positions of head_dim {2 * cache.pairs}"
        )
    out = np.array(x)
    cdef float[:, :, ::1] y = out
    for i in prange(T * H, nogil=True, num_threads=threads):
        rope_head(&y[i // H, i % H, 0], cache.at(position + i // H), cache.pairs, halves)
    return out
