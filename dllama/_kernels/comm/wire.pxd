# The forms of the numbers that nodes send to each other (simd/wire.h).

from libc.stdint cimport int64_t, uint8_t


cdef extern from "simd/wire.h" nogil:
    enum:
        DL_STRIP
        dl_wire_f32
    ctypedef struct dl_wire:
        const char *name
        int block
        int bytes
        int rotated
    ctypedef struct dl_wire_fns:
        void (*pack)(const float *src, float *carry, int fresh, int64_t n, int wire, uint8_t *dst) noexcept nogil
        void (*decode)(const uint8_t *src, int64_t n, int wire, float *x) noexcept nogil
        void (*round)(float *x, float *carry, int64_t n, int wire, uint8_t *dst) noexcept nogil
        void (*unpack)(float *x, int64_t n, int wire, int add, float *dst) noexcept nogil
    const dl_wire *dl_wire_of(int id)  # NULL for an unknown form
    int64_t dl_wire_bytes(int wire, int64_t n)
