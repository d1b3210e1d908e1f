"""The table of weight types, and conversion between float arrays and the bytes of a model file."""

from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t

import numpy as np


cdef extern from "simd/cpu.h" nogil:
    int dl_isa()

# Numbers that a thread converts at a time: whole blocks.
cdef enum:
    SPAN = 1 << 16


def table():
    """The table of types.h: rows of (id, name, block, bytes, unit, whether matmuls read Q80, whether
    numbers can be converted to the type)."""
    cdef const dl_weight_type *row = dl_weight_type_of(0)
    rows = []
    while row != NULL:
        rows.append((row.id, row.name.decode(), row.block, row.bytes, row.unit,
                     bool(row.quantised), bool(dl_type_is_encoded(row.id))))
        row = dl_weight_type_of(row.id + 1)
    return rows


cdef const dl_weight_type *known(int weight_type) except NULL:
    cdef const dl_weight_type *row = dl_weight_type_of(weight_type)
    if row == NULL:
        ids = ", ".join(str(number) for number, *_ in table())
        raise ValueError(f"weight type is {weight_type}, expected one of {ids}")
    return row


def nbytes(int weight_type, int64_t count):
    """Bytes of `count` numbers; ValueError for an unknown type, or unless they are whole blocks."""
    cdef const dl_weight_type *row = known(weight_type)
    if count % row.block:
        raise ValueError(
            f"{count} numbers cannot be stored as {row.name.decode()}: blocks have {row.block}"
        )
    return dl_type_bytes(weight_type, count)


def encode(src, out, int weight_type, int threads=1, bint bf16=False):
    """Encode numbers as a model file stores them.

    Args:
        src: C-contiguous float32 or float16; with bf16, bfloat16 bits in uint16.
        out: writable uint8 (bytes,).
        weight_type: how to store them.
        threads: how many threads encode.
        bf16: whether src holds bfloat16 bits.

    Returns:
        Whether all numbers are finite, both before and after encoding.

    Raises:
        ValueError: src has another dtype, the sizes do not fit, or numbers cannot be converted to the
            type.
    """
    cdef int src_type = _source_type(src.dtype, bf16)
    cdef const uint8_t[::1] given = np.ascontiguousarray(src).reshape(-1).view(np.uint8)
    cdef uint8_t[::1] dst = out
    cdef int64_t n = src.size, spans = (n + SPAN - 1) // SPAN, i
    cdef int64_t width = 4 if src_type == DL_SRC_F32 else 2
    cdef const dl_quants *f = dl_quants_of(dl_isa())
    cdef int bad = 0
    if not dl_type_is_encoded(known(weight_type).id):
        raise ValueError(f"cannot convert to {known(weight_type).name.decode()}")
    if dst.shape[0] != nbytes(weight_type, n):
        raise ValueError(f"out has {dst.shape[0]} bytes, expected {nbytes(weight_type, n)}")
    for i in prange(spans, nogil=True, num_threads=threads, schedule="static"):
        bad += f.encode(&given[i * SPAN * width], src_type, min(SPAN, n - i * SPAN), weight_type,
                        &dst[dl_type_bytes(weight_type, i * SPAN)])
    return bad == 0


cdef int _source_type(dtype, bint bf16) except -1:
    if bf16 and dtype == np.uint16:
        return DL_SRC_BF16
    if not bf16 and dtype == np.float32:
        return DL_SRC_F32
    if not bf16 and dtype == np.float16:
        return DL_SRC_F16
    raise ValueError(f"cannot encode {dtype}{' as bfloat16' if bf16 else ''}")


def decode(const uint8_t[::1] src, float[::1] dst, int weight_type, int threads=1):
    """Decode src, uint8 (bytes,), to dst, float32 (n,); ValueError if the sizes do not fit."""
    cdef int64_t n = dst.shape[0], spans = (n + SPAN - 1) // SPAN, i
    cdef const dl_quants *f = dl_quants_of(dl_isa())
    if src.shape[0] != nbytes(weight_type, n):
        raise ValueError(f"src has {src.shape[0]} bytes, expected {nbytes(weight_type, n)}")
    for i in prange(spans, nogil=True, num_threads=threads, schedule="static"):
        f.decode(&src[dl_type_bytes(weight_type, i * SPAN)], weight_type, min(SPAN, n - i * SPAN),
                 &dst[i * SPAN])


class StoredRows:
    """Rows of a matrix as stored in a model file, decoded when they are looked up.

    Args:
        rows: uint8 (n, bytes per row), C-contiguous.
        weight_type: how numbers are stored.
        cols: numbers in a row.

    Raises:
        ValueError: the rows have the wrong size.
    """

    def __init__(self, rows, int weight_type, int64_t cols):
        if rows.shape[1] != nbytes(weight_type, cols):
            raise ValueError(f"{rows.shape[1]} bytes of a row of {cols} numbers, "
                             f"expected {nbytes(weight_type, cols)}")
        self.rows, self.weight_type, self.cols = rows, weight_type, cols

    def lookup(self, ids):
        """The rows of these numbers: float32 (len(ids), cols)."""
        out = np.empty((len(ids), self.cols), np.float32)
        decode(self.rows[ids].reshape(-1), out.reshape(-1), self.weight_type)
        return out
