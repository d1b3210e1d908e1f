"""Memory that kernels own, outside Python's allocator."""

cdef extern from "memory.h" nogil:
    void *dl_map(size_t bytes)
    void dl_unmap(void *data, size_t bytes)


cdef class Memory:
    """`nbytes` zeroed bytes on pages of their own; MemoryError if they cannot be allocated."""

    def __cinit__(self, Py_ssize_t nbytes):
        if nbytes < 0:
            raise ValueError(f"nbytes is {nbytes}, expected 0 or more")
        self.nbytes = max(nbytes, 1)
        self.data = <char *> dl_map(<size_t> self.nbytes)
        if self.data == NULL:
            raise MemoryError(f"cannot allocate {nbytes} bytes")

    def __dealloc__(self):
        if self.data != NULL:
            dl_unmap(self.data, <size_t> self.nbytes)

    cdef float *floats(self) noexcept:
        return <float *> self.data
