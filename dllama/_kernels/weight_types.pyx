"""Conversion between float arrays and the bytes of a model file.

Float types: 0 f32, 1 f16, 2 q40 (18 bytes per 32 numbers), 3 q80 (34 bytes).
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t

import numpy as np


cdef extern from "simd/quants.h" nogil:
    enum:
        DL_SRC_F32
        DL_SRC_F16
        DL_SRC_BF16
    int dl_isa()

# Numbers that a thread takes at a time: whole blocks.
cdef enum:
    CHUNK = 1 << 16


def nbytes(int weight_type, int64_t count):
    """Bytes of `count` numbers; ValueError for an unknown type or a part of a block."""
    if not 0 <= weight_type <= 3 or (weight_type >= 2 and count % 32):
        raise ValueError(f"{count} numbers cannot be stored as float type {weight_type}")
    return _bytes(weight_type, count)


cdef inline int64_t _bytes(int weight_type, int64_t count) noexcept nogil:
    if weight_type == 0:
        return count * 4
    if weight_type == 1:
        return count * 2
    return count // 32 * (18 if weight_type == 2 else 34)


def encode(src, out, int weight_type, int threads=1, bint bf16=False):
    """Store src, C-contiguous float32, float16 or, with bf16, bfloat16 bits in uint16, in out.

    out: writable uint8 (bytes,). Returns whether all numbers are finite, as given and as
    stored. ValueError for another dtype or a size that does not fit.
    """
    cdef int src_type = _source_type(src.dtype, bf16)
    cdef const uint8_t[::1] given = np.ascontiguousarray(src).reshape(-1).view(np.uint8)
    cdef uint8_t[::1] dst = out
    cdef int64_t n = src.size, chunks = (n + CHUNK - 1) // CHUNK, i
    cdef int64_t width = 4 if src_type == DL_SRC_F32 else 2
    cdef const dl_quants *f = dl_quants_of(dl_isa())
    cdef int bad = 0
    if dst.shape[0] != nbytes(weight_type, n):
        raise ValueError(f"dst has {dst.shape[0]} bytes, expected {nbytes(weight_type, n)}")
    for i in prange(chunks, nogil=True, num_threads=threads, schedule="static"):
        bad += f.encode(&given[i * CHUNK * width], src_type, min(CHUNK, n - i * CHUNK), weight_type,
                        &dst[_bytes(weight_type, i * CHUNK)])
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
    """Write the numbers of src, uint8 (bytes,), to dst, float32 (n,); ValueError on sizes."""
    cdef int64_t n = dst.shape[0], chunks = (n + CHUNK - 1) // CHUNK, i
    cdef const dl_quants *f = dl_quants_of(dl_isa())
    if src.shape[0] != nbytes(weight_type, n):
        raise ValueError(f"src has {src.shape[0]} bytes, expected {nbytes(weight_type, n)}")
    for i in prange(chunks, nogil=True, num_threads=threads, schedule="static"):
        f.decode(&src[_bytes(weight_type, i * CHUNK)], weight_type, min(CHUNK, n - i * CHUNK),
                 &dst[i * CHUNK])
