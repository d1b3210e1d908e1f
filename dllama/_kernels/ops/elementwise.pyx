"""Row-wise float kernels: RMSNorm, LayerNorm, activations, exp, and the rows that a matmul reads.

T: rows, D or K: columns of a row. All results have the same bits on every instruction set and for
any number of threads.
"""

from cython.parallel cimport prange
from libc.string cimport memcpy

import numpy as np


cdef extern from "simd/floats.h" nogil:
    const dl_floats *dl_floats_of(int isa)


cdef const dl_floats *float_kernels() noexcept nogil:
    return dl_floats_of(dl_isa())


cdef class Rows:
    """Memory for rows that a matmul reads.

    Args:
        count: rows.
        k: columns.
        quantised: Q80 blocks, else float32.

    Raises:
        ValueError: quantised, and k is not a multiple of 32.
    """

    def __cinit__(self, int64_t count, int64_t k, bint quantised):
        cdef int64_t blocks = count * (k // 32)
        self.count = count
        self.view.k = k
        if not quantised:
            self.memory = Memory(count * k * 4)
            self.view.x = self.memory.floats()
            return
        if k % 32:
            raise ValueError(f"k is {k}, expected a multiple of 32")
        self.memory = Memory(blocks * (32 + 4 + 4 + 4))
        self.view.d = self.memory.floats()
        self.view.s = <int32_t *> (self.view.d + blocks)
        self.view.h = self.view.s + blocks
        self.view.q = <int8_t *> (self.view.h + blocks)

    def part(self, int64_t first, int64_t count, int64_t of):
        """Some of `of` equal parts, in the same memory. Q80 blocks begin at a whole tile."""
        cdef int64_t n = self.count // of, at = first * n, blocks = at * (self.view.k // 32)
        cdef Rows part = Rows(0, self.view.k, self.view.x == NULL)
        part.count, part.memory, part.view = count * n, self.memory, self.view
        if self.view.x != NULL:
            part.view.x += at * self.view.k
        else:
            part.view.q, part.view.d = self.view.q + at * self.view.k, self.view.d + blocks
            part.view.s, part.view.h = self.view.s + blocks, self.view.h + blocks
        return part

    @property
    def nbytes(self):
        """Bytes allocated."""
        return self.memory.nbytes


cdef void put_blocks(const dl_floats *f, const dl_rows *rows, int64_t T, int64_t t,
                     int64_t first, int64_t blocks, const float *x) noexcept nogil:
    cdef int n = dl_tile_width(T, t)
    cdef int64_t nb = rows.k // 32, tile = t - t % DL_TILE, i = t % DL_TILE
    cdef int64_t count = min(32 * blocks, rows.k - 32 * first)
    if rows.x != NULL:
        memcpy(rows.x + t * rows.k + 32 * first, x, count * sizeof(float))
        return
    f.quantise_row(
        x, blocks, n,
        rows.q + tile * rows.k + 32 * n * first + 4 * i,
        rows.d + tile * nb + n * first + i,
        rows.s + tile * nb + n * first + i,
        rows.h + tile * nb + n * first + i,
    )


cdef void put_row(const dl_floats *f, const dl_rows *rows, int64_t T, int64_t t,
                  const float *x) noexcept nogil:
    put_blocks(f, rows, T, t, 0, (rows.k + 31) // 32, x)


def rmsnorm(const float[:, ::1] x, const float[::1] weight, float epsilon, int threads=1):
    """RMSNorm: x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019, equation 4).

    Args:
        x: float32 (T, D).
        weight: float32 (D,).
        epsilon: added to the mean.
        threads: how many threads compute.

    Returns:
        float32 (T, D).

    Raises:
        ValueError: the widths differ.
    """
    cdef int64_t t, T = x.shape[0], D = x.shape[1]
    cdef const dl_floats *f = float_kernels()
    _same("weight", weight.shape[0], D)
    out = np.empty((T, D), np.float32)
    cdef float[:, ::1] y = out
    if D:
        for t in prange(T, nogil=True, num_threads=threads):
            f.rmsnorm(&x[t, 0], &weight[0], epsilon, D, &y[t, 0])
    return out


def layernorm(const float[:, ::1] x, const float[::1] weight, const float[::1] bias, float epsilon,
              int threads=1):
    """LayerNorm: (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias (Ba et al. 2016, equation 4).

    Args:
        x: float32 (T, D).
        weight: float32 (D,).
        bias: float32 (D,), or None.
        epsilon: added to the variance.
        threads: how many threads compute.

    Returns:
        float32 (T, D).

    Raises:
        ValueError: the widths differ.
    """
    cdef int64_t t, T = x.shape[0], D = x.shape[1]
    cdef const dl_floats *f = float_kernels()
    cdef const float *shift = NULL
    _same("weight", weight.shape[0], D)
    if bias is not None:
        _same("bias", bias.shape[0], D)
        if D:
            shift = &bias[0]
    out = np.empty((T, D), np.float32)
    cdef float[:, ::1] y = out
    if D:
        for t in prange(T, nogil=True, num_threads=threads):
            f.layernorm(&x[t, 0], &weight[0], shift, epsilon, D, &y[t, 0])
    return out


def silu(const float[:, ::1] x, int threads=1):
    """x * sigmoid(x) for float32 (T, D) (Hendrycks and Gimpel 2016)."""
    return _gated(x, x, threads, SILU)


def gelu(const float[:, ::1] x, int threads=1):
    """GELU with the tanh approximation for float32 (T, D) (Hendrycks and Gimpel 2016)."""
    return _gated(x, x, threads, GELU)


def swiglu(const float[:, ::1] gate, const float[:, ::1] up, int threads=1):
    """SwiGLU: gate * sigmoid(gate) * up, all float32 (T, D) (Shazeer 2020)."""
    return _gated(gate, up, threads, GATED)


def geglu(const float[:, ::1] gate, const float[:, ::1] up, int threads=1):
    """GEGLU: gelu(gate) * up with the tanh approximation, all float32 (T, D) (Shazeer 2020)."""
    return _gated(gate, up, threads, GATED_GELU)


def swiglu_clamped(const float[:, ::1] gate, const float[:, ::1] up, float limit, int threads=1):
    """(u + 1) * g * sigmoid(1.702 g), all float32 (T, D) (OpenAI 2025, gpt-oss model card).

    g = min(gate, limit), and u is up, clamped to -limit and limit.
    """
    return _gated(gate, up, threads, GATED_CLAMPED, limit)


cdef _gated(const float[:, ::1] gate, const float[:, ::1] up, int threads, int then, float limit=0):
    cdef Activation a
    a.then, a.limit = then, limit
    cdef int64_t t, T = gate.shape[0], D = gate.shape[1]
    cdef const dl_floats *f = float_kernels()
    _same("rows of up", up.shape[0], T)
    _same("columns of up", up.shape[1], D)
    out = np.empty((T, D), np.float32)
    cdef float[:, ::1] h = out
    if D:
        for t in prange(T, nogil=True, num_threads=threads):
            activate(f, &a, &gate[t, 0], &up[t, 0], D, &h[t, 0])
    return out


def softcap(const float[::1] x, float cap):
    """cap * tanh(x / cap) for float32 (N,)."""
    cdef const dl_floats *f = float_kernels()
    out = np.empty(x.shape[0], np.float32)
    cdef float[::1] y = out
    f.softcap(&x[0], x.shape[0], cap, &y[0])
    return out


def exp(const float[::1] x):
    """e^x of float32 (n,); relative error below 3e-7 on (-87, 88], 0 below, e^88 above."""
    cdef const dl_floats *f = float_kernels()
    out = np.empty(x.shape[0], np.float32)
    cdef float[::1] y = out
    if x.shape[0]:
        f.exp_row(&x[0], x.shape[0], &y[0])
    return out


def quantise(const float[:, ::1] x):
    """Quantise rows to Q80, as a matmul does with its input.

    In each block of 32, d = max|x| / 127, rounded to float16, and q = x / d, rounded half to even.

    Args:
        x: float32 (T, K).

    Returns:
        q, int8 (T, K), and the scales d, float32 (T, K / 32).

    Raises:
        ValueError: K is not a multiple of 32.
    """
    cdef int64_t t, b, T = x.shape[0], K = x.shape[1]
    cdef int32_t s, h
    cdef const dl_floats *f = float_kernels()
    if K % 32:
        raise ValueError(f"K is {K}, expected a multiple of 32")
    values = np.empty((T, K), np.int8)
    scales = np.empty((T, K // 32), np.float32)
    cdef signed char[:, ::1] q = values
    cdef float[:, ::1] d = scales
    for t in range(T):
        for b in range(K // 32):
            f.quantise_row(&x[t, 32 * b], 1, 1, <int8_t *> &q[t, 32 * b], &d[t, b], &s,
                           &h)
    return values, scales


cdef _same(str what, int64_t found, int64_t expected):
    if found != expected:
        raise ValueError(f"{what}: {found}, expected {expected}")
