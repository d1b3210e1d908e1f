"""What sampling needs to know about the logits of one vocabulary shard.

n: logits of the shard, whose first token id is `offset`. T: the temperature. A token's weight is
2^y = e^(logit / T), kept as an octave, y rounded, and an integer of 24 bits (simd/sampling.h).
Random numbers are a function of (seed, number, token id), where `number` counts the draws of a seed.
So the result does not depend on how the vocabulary is split. Logits are contiguous float32 without
NaN and +infinity.
"""

from libc.math cimport INFINITY, isnan, log, log1p
from libc.stdint cimport int32_t, int64_t, uint64_t

import numpy as np


cdef extern from "simd/sampling.h" nogil:
    enum:
        DL_OCTAVES
        DL_RUN
    ctypedef struct dl_sampling:
        int (*usable)(const float *logits, int64_t n) noexcept nogil
        float (*top)(const float *logits, int64_t n) noexcept nogil
        void (*masses)(const float *logits, int64_t n, float scale, int32_t *octave, int32_t *mass) noexcept nogil
        void (*sum_masses)(const float *logits, int64_t n, float scale, int32_t first, uint64_t *sums) noexcept nogil
        int64_t (*select)(const float *logits, int64_t n, float scale, float octave, float least, int32_t *index) noexcept nogil
    const dl_sampling *dl_sampling_of(int isa)
    float dl_octave(float logit, float scale)
    int dl_isa()

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil

OCTAVES = DL_OCTAVES
# No token is in an octave beyond this one, in either direction.
MAX_OCTAVE = 1 << 21
cdef double LN2 = 0.6931471805599453
cdef double LOG2_E = 1.4426950408889634


cdef inline float _scale(double temperature) noexcept nogil:
    return <float> (LOG2_E / temperature)


def top(const float[::1] logits):
    """(largest logit, its index); the lowest index of a tie.

    ValueError for NaN, +infinity, or no logits.
    """
    cdef int64_t n = logits.shape[0], i = 0
    cdef const dl_sampling *f = dl_sampling_of(dl_isa())
    cdef float largest
    if n == 0:
        raise ValueError("there are no logits")
    if not f.usable(&logits[0], n):
        raise ValueError(_complaint(logits))
    with nogil:
        largest = f.top(&logits[0], n)
        while logits[i] != largest:
            i += 1
    return largest, i


cdef str _complaint(const float[::1] logits):
    cdef int64_t i = 0
    for i in range(logits.shape[0]):
        if isnan(logits[i]) or logits[i] == INFINITY:
            break
    return f"logit {i} is {logits[i]}"


def masses(const float[::1] logits, double temperature):
    """Sums of weights by octave.

    Returns:
        The octave of the largest logit, and uint64 (OCTAVES,): entry i is the sum of the integer
        weights of the tokens i octaves below it.
    """
    cdef int64_t n = logits.shape[0]
    cdef const dl_sampling *f = dl_sampling_of(dl_isa())
    cdef float scale = _scale(temperature)
    cdef int32_t first
    out = np.zeros(DL_OCTAVES, np.uint64)
    cdef uint64_t[::1] sums = out
    with nogil:
        first = <int32_t> dl_octave(f.top(&logits[0], n), scale)
        f.sum_masses(&logits[0], n, scale, first, &sums[0])
    return first, out


cdef inline bint _before(float a, int64_t i, float b, int64_t j) noexcept nogil:
    """Whether token i with logit a comes before token j with logit b."""
    return a > b or (a == b and i < j)


def mass_before(const float[::1] logits, double temperature, int32_t octave, float logit,
                int64_t token, int64_t offset=0):
    """Sum of the integer weights of the tokens of an octave that come before a token.

    Higher logits come first; of equal logits, lower ids.

    Args:
        logits: float32 (n,).
        temperature: above 0.
        octave: the octave.
        logit: logit of the token.
        token: id of the token.
        offset: token id of the first logit.
    """
    cdef int64_t n = logits.shape[0], i, j, m, run
    cdef int32_t octaves[DL_RUN]
    cdef int32_t mass[DL_RUN]
    cdef uint64_t total = 0
    cdef float scale = _scale(temperature)
    cdef const dl_sampling *f = dl_sampling_of(dl_isa())
    with nogil:
        for run in range((n + DL_RUN - 1) // DL_RUN):
            i = run * DL_RUN
            m = min(<int64_t> DL_RUN, n - i)
            if f.top(&logits[i], m) < logit:
                continue
            f.masses(&logits[i], m, scale, octaves, mass)
            for j in range(m):
                if octaves[j] == octave and _before(logits[i + j], offset + i + j, logit, token):
                    total += <uint64_t> mass[j]
    return int(total)


cdef inline uint64_t _mix(uint64_t z) noexcept nogil:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94d049bb133111eb
    return z ^ (z >> 31)


cdef inline uint64_t _key(uint64_t seed, uint64_t number) noexcept nogil:
    return _mix(_mix(seed + <uint64_t> 0x9e3779b97f4a7c15) + number)


cdef inline uint64_t _bits(uint64_t key, uint64_t token) noexcept nogil:
    """53 random bits of a token. The lowest is always set, so the number is never 0."""
    return (_mix(key + <uint64_t> 0x9e3779b97f4a7c15 * (token + 1)) >> 11) | 1


cdef inline double _gumbel(uint64_t bits) noexcept nogil:
    """A standard Gumbel number: -log(-log(1 - x)) for x uniform in (0, 1)."""
    return -log(-log1p(-<double> bits * (1.0 / 9007199254740992.0)))


cdef inline double _gumbel_bound(uint64_t bits) noexcept nogil:
    """An upper bound of _gumbel(bits): -log(-log(1 - x)) <= -log(x), from x's leading zeros."""
    return LN2 * (__builtin_clzll(bits) - 10)


def race(const float[::1] logits, double temperature, uint64_t seed, uint64_t number,
         int64_t offset=0, int32_t octave=-(1 << 22), float least=-INFINITY,
         float limit=-INFINITY, int64_t limit_token=-1):
    """The winners of a Gumbel race: one among the tokens above an octave, one within it.

    The winner has the largest value of logit / temperature + Gumbel number of (seed, number, id).
    It is a sample of the softmax (Gumbel 1954; Maddison et al. 2014).

    Args:
        logits: float32 (n,).
        temperature: above 0.
        seed: of the random numbers.
        number: counts the draws of a seed.
        offset: token id of the first logit.
        octave: tokens below it do not take part.
        least: tokens with smaller logits do not take part.
        limit: within the octave, only tokens before limit_token, whose logit is `limit`, take part.
        limit_token: see limit.

    Returns:
        ((value, id), (value, id, logit)): the winners above the octave and within it. The id is -1
        if no token takes part.
    """
    cdef int64_t n = logits.shape[0], i, j, m, run
    cdef int32_t index[DL_RUN]
    cdef double value[2]
    cdef int64_t winner[2]
    cdef double x, inverse = 1.0 / temperature
    cdef uint64_t key = _key(seed, number), bits
    cdef float scale = _scale(temperature)
    cdef const dl_sampling *f = dl_sampling_of(dl_isa())
    cdef bint edge
    value[:] = [-INFINITY, -INFINITY]
    winner[:] = [-1, -1]
    with nogil:
        for run in range((n + DL_RUN - 1) // DL_RUN):
            i = run * DL_RUN
            m = f.select(&logits[i], min(<int64_t> DL_RUN, n - i), scale, octave, least, index)
            for j in range(m):
                i = run * DL_RUN + index[j]
                edge = dl_octave(logits[i], scale) == octave
                bits = _bits(key, <uint64_t> (offset + i))
                x = logits[i] * inverse
                if x + _gumbel_bound(bits) < value[edge]:
                    continue
                if edge and not _before(logits[i], offset + i, limit, limit_token):
                    continue
                x += _gumbel(bits)
                if x > value[edge]:
                    value[edge], winner[edge] = x, i
    inside = (value[0], winner[0] + offset if winner[0] >= 0 else -1)
    if winner[1] < 0:
        return inside, (value[1], -1, -INFINITY)
    return inside, (value[1], winner[1] + offset, logits[winner[1]])


def gumbel(const int64_t[::1] ids, uint64_t seed, uint64_t number):
    """The Gumbel numbers that `race` uses for some token ids: float64 (n,)."""
    cdef uint64_t key = _key(seed, number)
    cdef int64_t i
    out = np.empty(ids.shape[0], np.float64)
    cdef double[::1] y = out
    for i in range(ids.shape[0]):
        y[i] = _gumbel(_bits(key, <uint64_t> ids[i]))
    return out


cdef void _sift(float *value, int64_t *index, int64_t n, int64_t at) noexcept nogil:
    """Restore a heap from `at` down. The token that comes last in order is on top."""
    cdef int64_t child
    cdef float v = value[at]
    cdef int64_t k = index[at]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and _before(value[child], index[child], value[child + 1], index[child + 1]):
            child += 1
        if not _before(v, k, value[child], index[child]):
            break
        value[at], index[at] = value[child], index[child]
        at = child
    value[at], index[at] = v, k


def candidates(const float[::1] logits, int64_t k, int64_t offset=0):
    """The k best tokens: ids, int64 (m,), and logits, float32 (m,), with m = min(k, n).

    Higher logits come first; of equal logits, lower ids.
    """
    cdef int64_t n = logits.shape[0], m = min(max(k, 0), n), i, j, end
    cdef const dl_sampling *f = dl_sampling_of(dl_isa())
    values, indices = np.empty(m, np.float32), np.empty(m, np.int64)
    cdef float[::1] value = values
    cdef int64_t[::1] index = indices
    if m:
        with nogil:
            for i in range(m):
                value[i], index[i] = logits[i], i
            for i in range(m // 2 - 1, -1, -1):
                _sift(&value[0], &index[0], m, i)
            for i in range(m, n, 64):
                end = min(i + 64, n)
                if f.top(&logits[i], end - i) <= value[0]:
                    continue
                for j in range(i, end):
                    if logits[j] > value[0]:
                        value[0], index[0] = logits[j], j
                        _sift(&value[0], &index[0], m, 0)
    order = np.lexsort((indices, -values))
    return indices[order] + offset, values[order]
