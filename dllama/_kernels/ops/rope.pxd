# RoPE: the cache of cosines and sines, and the rotation of one head.

from libc.stdint cimport int64_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings


cdef class RopeCache:
    cdef Memory memory
    cdef readonly int64_t positions, pairs
    cdef readonly object radians    # float64 [pairs]: of a position
    cdef const float *at(self, int64_t position) noexcept nogil     # [pairs][2]: cos, sin

# The cache of some frequencies for positions 0 up to `positions`, which tasks share.
cdef RopeCache rope_cache(Bindings b, frequencies, int64_t positions, double factor)

# Rotate the pairs of x in place; halves: pair i is (i, i + pairs), else (2i, 2i + 1).
# turns: [pairs][2], cosines and sines.
cdef void rope_head(float *x, const float *turns, int64_t pairs, bint halves) noexcept nogil
