# Packed weight matrices.

from libc.stdint cimport int64_t, uint8_t

from dllama._kernels.memory cimport Memory


# Memory that matrices share.
cdef class Pool:
    cdef Memory memory
    cdef int64_t taken              # bytes
    cdef char *take(self, int64_t nbytes) except NULL


cdef class PackedMatrix:
    cdef Memory memory
    cdef char *start
    cdef readonly int64_t nbytes
    cdef int64_t stride             # bytes from one panel to the next
    cdef readonly int64_t rows, cols, skip
    cdef readonly int weight_type
    cdef readonly bint quantised    # products read Q80 blocks
    cdef const uint8_t *data(self) noexcept
