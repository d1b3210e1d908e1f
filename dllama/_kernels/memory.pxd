# Memory that kernels own: zeroed pages that live as long as the Python object.

cdef class Memory:
    cdef char *data                 # [nbytes], page-aligned, zero at first
    cdef readonly Py_ssize_t nbytes

    cdef float *floats(self) noexcept
