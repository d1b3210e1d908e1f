# The halves of a batch, which are evaluated by turns (interleave.py).

from libc.stdint cimport int32_t, int64_t

from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Pass


cdef class Halves:
    cdef Pass passes[2]
    cdef Memory spans, wanted
    cdef int64_t first              # rows of the first half's buffers
    cdef int64_t max_rows, sequences
    cdef readonly int64_t cut       # rows of the first half of the last batch
    cdef readonly int64_t nbytes
    # Cut a batch in two, for all stages but those of the wanted rows, which find those in their
    # buffers. Returns whether that is possible.
    cdef bint halve(self, Pass *whole) noexcept
    # The row of the buffers that has row t of the batch.
    cdef int64_t place(self, int64_t t) noexcept
    cdef void _set(self, int half, const Pass *whole, int64_t begin, int64_t end) noexcept
