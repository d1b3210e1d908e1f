"""Conversion of floats to stored numbers by a search for the least error."""

from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t

import numpy as np

from dllama._kernels.weight_types cimport known

from dllama._kernels.weight_types import nbytes


cdef extern from "simd/cpu.h" nogil:
    int dl_isa()

cdef extern from "simd/search.h" nogil:
    ctypedef int (*dl_search_fn)(const float *x, const float *importance, int64_t n, int type, uint8_t *dst) noexcept nogil
    dl_search_fn dl_search_of(int isa)
    int dl_type_is_searched(int type)


def is_searched(int weight_type):
    """Whether `search` encodes this type."""
    return bool(dl_type_is_searched(weight_type))


def search(const float[:, ::1] rows, uint8_t[::1] out, int weight_type, importance=None,
           int threads=1):
    """Encode rows so that the sum of squared errors is small, each times a weight.

    The weight of a number x is its column's importance times sqrt(x^2 + the mean square of its
    block).

    Args:
        rows: float32 (r, columns); a row is whole blocks.
        out: writable uint8 (bytes,).
        weight_type: how to store them.
        importance: float32 (columns,), not negative; None: all columns count alike.
        threads: how many threads encode.

    Returns:
        Whether all numbers are finite, both before and after encoding.

    Raises:
        ValueError: the type is not searched, or the sizes do not fit.
    """
    cdef int64_t count = rows.shape[0], cols = rows.shape[1], i
    cdef int64_t stride = nbytes(weight_type, cols)
    cdef const float[::1] weights
    cdef const float *factors = NULL
    cdef dl_search_fn encode = dl_search_of(dl_isa())
    cdef int bad = 0
    if not dl_type_is_searched(weight_type):
        raise ValueError(f"{known(weight_type).name.decode()} is not searched")
    if out.shape[0] != count * stride:
        raise ValueError(f"out has {out.shape[0]} bytes, expected {count * stride}")
    if importance is not None:
        weights = np.ascontiguousarray(importance, np.float32)
        if weights.shape[0] != cols:
            raise ValueError(f"importance of {weights.shape[0]} columns, expected {cols}")
        factors = &weights[0]
    for i in prange(count, nogil=True, num_threads=threads, schedule="static"):
        bad += encode(&rows[i, 0], factors, cols, weight_type, &out[i * stride])
    return bad == 0
