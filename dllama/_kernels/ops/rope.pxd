# RoPE: the cache of cosines and sines, and the rotation of one head.

from libc.stdint cimport int64_t

from dllama._kernels.memory cimport Memory


cdef class RopeCache:
    cdef Memory memory
    cdef readonly int64_t positions, pairs
    cdef readonly object radians    # float64 [pairs]: of a position
    cdef const float *at(self, int64_t position) noexcept nogil     # [pairs][2]: cos, sin

# Rotate the pairs of x in place; halves: pair i is (i, i + pairs), else (2i, 2i + 1).
# turns: [pairs][2], cosines and sines.
cdef void rope_head(float *x, const float *turns, int64_t pairs, bint halves) noexcept nogil
