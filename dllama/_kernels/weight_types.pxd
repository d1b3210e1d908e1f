# Conversion between floats and the bytes of a float type, by instruction set.

from libc.stdint cimport int64_t, uint8_t


cdef extern from "simd/quants.h" nogil:
    ctypedef struct dl_quants:
        int (*encode)(const void *src, int src_type, int64_t n, int type, uint8_t *dst) noexcept nogil
        void (*decode)(const uint8_t *src, int type, int64_t n, float *dst) noexcept nogil
    const dl_quants *dl_quants_of(int isa)
