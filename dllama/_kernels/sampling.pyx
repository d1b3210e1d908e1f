"""What sampling needs from a slice of the logits, without looking at the rest.

n: logits of the slice, whose first token id is `offset`. Random numbers are a function of
(seed, step, token id), so any split of the vocabulary draws the same.
"""

from libc.math cimport INFINITY, isfinite, isnan, log, log1p
from libc.stdint cimport int32_t, int64_t, uint64_t

import numpy as np

from dllama._kernels.elementwise cimport dl_floats, dl_floats_of, dl_isa

cdef enum:
    RUN = 1024

cdef double LN2 = 0.6931471805599453


cdef inline uint64_t _mix(uint64_t z) noexcept nogil:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94d049bb133111eb
    return z ^ (z >> 31)


cdef inline uint64_t _key(uint64_t seed, uint64_t step) noexcept nogil:
    return _mix(_mix(seed + <uint64_t> 0x9e3779b97f4a7c15) + step)


cdef inline uint64_t _bits(uint64_t key, uint64_t token) noexcept nogil:
    """53 random bits of a token."""
    return _mix(key + <uint64_t> 0x9e3779b97f4a7c15 * (token + 1)) >> 11


cdef inline double _gumbel(uint64_t bits) noexcept nogil:
    """A standard Gumbel number: -log(-log(1 - x)) for x uniform in (0, 1)."""
    return -log(-log1p(-(<double> bits + 0.5) * (1.0 / 9007199254740992.0)))


def scan(const float[::1] logits, double inverse_temperature):
    """(largest logit, its index, sum of exp((logit - largest) / temperature)) of a slice.

    The lowest index of several largest. ValueError for NaN, infinity, or no logits.
    """
    cdef int64_t n = logits.shape[0], i, best = 0, j, m
    cdef double total = 0
    cdef float top
    cdef float x[RUN]
    cdef const dl_floats *f = dl_floats_of(dl_isa())
    if n == 0:
        raise ValueError("no logits")
    with nogil:
        for i in range(n):
            if isnan(logits[i]) or logits[i] > logits[best]:
                best = i
                if not isfinite(logits[i]):
                    break
        top = logits[best]
        i = 0
        while i < n and isfinite(top):
            m = min(<int64_t> RUN, n - i)
            for j in range(m):
                x[j] = <float> ((logits[i + j] - top) * inverse_temperature)
            f.exp_row(x, m, x)
            for j in range(m):
                total += x[j]
            i += m
    if not isfinite(top):
        raise ValueError(f"logit {best} is {top}")
    return float(top), int(best), total


cdef inline bint _worse(float a, int32_t i, float b, int32_t j) noexcept nogil:
    """Whether token i with logit a comes after token j with logit b."""
    return a < b or (a == b and i > j)


cdef void _sift(float *value, int32_t *index, int64_t n, int64_t at) noexcept nogil:
    """Restore the heap whose worst entry is on top, from `at` down."""
    cdef int64_t child
    cdef float v = value[at]
    cdef int32_t k = index[at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and _worse(value[child + 1], index[child + 1], value[child], index[child]):
            child += 1
        if not _worse(value[child], index[child], v, k):
            break
        value[at], index[at] = value[child], index[child]
        at = child
    value[at], index[at] = v, k


def candidates(const float[::1] logits, int64_t k, int64_t offset=0):
    """The k best of a slice: ids int32 (m,) and logits float32 (m,), m = min(k, n).

    Highest logit first, lower id first among equals.
    """
    cdef int64_t n = logits.shape[0], m = min(max(k, 0), n), i
    values, indices = np.empty(m, np.float32), np.empty(m, np.int32)
    cdef float[::1] value = values
    cdef int32_t[::1] index = indices
    if m:
        with nogil:
            for i in range(m):
                value[i], index[i] = logits[i], <int32_t> i
            for i in range(m // 2 - 1, -1, -1):
                _sift(&value[0], &index[0], m, i)
            for i in range(m, n):
                if logits[i] > value[0]:
                    value[0], index[0] = logits[i], <int32_t> i
                    _sift(&value[0], &index[0], m, 0)
    order = np.lexsort((indices, -values))
    return (indices[order] + offset).astype(np.int32), values[order]


def winner(const float[::1] logits, double inverse_temperature, uint64_t seed, uint64_t step,
           int64_t offset=0):
    """(id, value) of the largest logit / temperature + Gumbel number of a slice.

    Sampling by the largest is sampling from the softmax (Gumbel 1954; Maddison et al. 2014).
    """
    cdef int64_t n = logits.shape[0], i, best = -1
    cdef double value = -INFINITY, x, most
    cdef uint64_t key = _key(seed, step), bits
    with nogil:
        for i in range(n):
            bits = _bits(key, <uint64_t> (offset + i))
            x = logits[i] * inverse_temperature
            # -log(-log(1 - x)) <= -log(x), and the leading zeros of x bound that.
            most = x + LN2 * (54 - _width(bits))
            if most <= value:
                continue
            x += _gumbel(bits)
            if x > value:
                value, best = x, i
    return int(best + offset), value


cdef inline int _width(uint64_t bits) noexcept nogil:
    """Number of bits up to the highest that is set."""
    return 64 - __builtin_clzll(bits | 1)


cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil


def gumbel(const int32_t[::1] ids, uint64_t seed, uint64_t step):
    """Gumbel numbers of some token ids, float64 (n,)."""
    cdef uint64_t key = _key(seed, step)
    cdef int64_t i
    out = np.empty(ids.shape[0], np.float64)
    cdef double[::1] y = out
    for i in range(ids.shape[0]):
        y[i] = _gumbel(_bits(key, <uint64_t> ids[i]))
    return out
