"""Weight matrices as the matmul reads them: rows packed in panels of 16, so that a SIMD lane is a row
of the matrix. simd/tile.h and simd/pieces.h have the layouts.
"""

from cython.parallel cimport prange

from dllama._kernels.weight_types cimport dl_type_bytes, dl_weight_type, known


cdef extern from "simd/tile.h" nogil:
    int64_t dl_panel_stride(int type, int64_t skip, int64_t k)
    int dl_pack_row(int type, int64_t skip, int64_t k, int r, const uint8_t *src,
                    uint8_t *panel)


cdef int64_t _packed_bytes(int64_t rows, int64_t cols, int weight_type, int64_t skip) except -1:
    cdef const dl_weight_type *kind = known(weight_type)
    if rows < 1 or cols < 1 or cols % kind.unit:
        raise ValueError(f"cannot pack a matrix of {rows} x {cols} {kind.name.decode()}")
    if skip % kind.unit or not 0 <= skip < kind.block:
        raise ValueError(f"cannot skip {skip} columns of a block of {kind.name.decode()}")
    return (rows + 15) // 16 * dl_panel_stride(weight_type, skip, cols)


def packed_nbytes(int64_t rows, int64_t cols, int weight_type, int64_t skip=0):
    """Bytes that a PackedMatrix of these arguments takes; ValueError as there."""
    return _packed_bytes(rows, cols, weight_type, skip)


cdef class Pool:
    """Memory for several matrices in one piece, so that nearly all of it lies in huge pages.

    Args:
        nbytes: bytes of all matrices together (packed_nbytes).

    Raises:
        MemoryError: they do not fit into memory.
    """

    def __cinit__(self, int64_t nbytes):
        self.memory = Memory(nbytes)

    cdef char *take(self, int64_t nbytes) except NULL:
        if nbytes > self.memory.nbytes - self.taken:
            raise ValueError(f"{nbytes} bytes of a matrix do not fit into "
                             f"{self.memory.nbytes - self.taken} bytes that are left")
        self.taken += nbytes
        return self.memory.data + self.taken - nbytes


cdef class PackedMatrix:
    """A matrix packed in panels, zero until filled.

    Args:
        rows: outputs.
        cols: inputs.
        weight_type: how weights are stored.
        skip: columns of the first block of a row that come before its first column.
        pool: where the matrix lies; by default, in memory of its own.

    Raises:
        ValueError: the type is unknown, cols or skip cannot be cut out of its blocks, or the pool has
            too little room.
    """

    def __cinit__(self, int64_t rows, int64_t cols, int weight_type, int64_t skip=0,
                  Pool pool=None):
        self.nbytes = _packed_bytes(rows, cols, weight_type, skip)
        self.rows, self.cols, self.weight_type, self.skip = rows, cols, weight_type, skip
        self.quantised = known(weight_type).quantised
        self.stride = dl_panel_stride(weight_type, skip, cols)
        if pool is None:
            pool = Pool(self.nbytes)
        self.start, self.memory = pool.take(self.nbytes), pool.memory

    cdef const uint8_t *data(self) noexcept:
        return <const uint8_t *> self.start

    def fill(self, int64_t first, const uint8_t[:, :] src, int64_t block=0, int64_t stride=0,
             int threads=1):
        """Pack rows of a model file.

        Row i of src becomes row first + i of the matrix or, if block is not 0, row
        first + i // block * stride + i % block.

        Args:
            first: row of the matrix where src begins.
            src: uint8 (n, bytes per row), the blocks that hold the columns; the bytes of a row are
                contiguous.
            block: rows that stay next to each other; 0 for all of them.
            stride: rows of the matrix from one block to the next.
            threads: how many threads pack.

        Returns:
            Whether all numbers, or all scales of quantised numbers, are finite.

        Raises:
            ValueError: the rows do not fit.
        """
        cdef const dl_weight_type *kind = known(self.weight_type)
        cdef int64_t n = src.shape[0], i, strip, parity, strips = (n + 15) // 16
        cdef int64_t whole = (self.skip + self.cols + kind.block - 1) // kind.block * kind.block
        cdef int64_t width = block if block else max(n, 1)
        cdef int64_t row_bytes = dl_type_bytes(self.weight_type, whole)
        cdef int64_t last = first + (n - 1) // width * stride + (n - 1) % width
        if src.shape[1] > 1 and src.strides[1] != 1:
            raise ValueError("the bytes of a row are not contiguous")
        if first < 0 or last >= self.rows or (n and src.shape[1] != row_bytes):
            raise ValueError(
                f"{n} rows of {src.shape[1]} bytes from row {first} do not fit in "
                f"{self.rows} rows of {row_bytes} bytes"
            )
        cdef int bad = 0
        for parity in range(2):  # neighbours may share a panel, and rows of a panel share bytes
            for strip in prange((strips + 1 - parity) // 2, nogil=True, num_threads=threads,
                                schedule="static"):
                for i in range(16 * (2 * strip + parity), min(n, 16 * (2 * strip + parity) + 16)):
                    bad += _fill_row(self, first + i // width * stride + i % width, &src[i, 0])
        return bad == 0


cdef int _fill_row(PackedMatrix matrix, int64_t row, const uint8_t *src) noexcept nogil:
    cdef uint8_t *panel = <uint8_t *> matrix.start + row // 16 * matrix.stride
    return dl_pack_row(matrix.weight_type, matrix.skip, matrix.cols, <int> (row % 16), src, panel)
