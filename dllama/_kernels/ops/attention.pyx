"""Causal grouped-query attention over a KV cache of float16 or float32.

T: tokens, H: query heads, K: KV heads, group = H / K query heads read one KV head.
A token at position p sees positions 0 to p. Scores and sums are float32; the cache is
read in chunks whose partial softmaxes merge in order (simd/attention.h), so the result
does not depend on the batch or the threads.
"""

from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.string cimport memcpy

import numpy as np

from dllama._kernels.ops.elementwise cimport dl_isa


# Query rows that one item of a long batch takes.
cdef enum:
    ITEM_ROWS = 32


cdef class KVCache:
    """Keys and values of `positions` positions for every layer; half: float16, else float32.

    There are so many contexts of these; the first one is the current one.
    """

    def __cinit__(self, int64_t layers, int64_t kv_heads, int64_t head_dim, int64_t positions,
                  bint half, int64_t contexts=1):
        if not 1 <= head_dim <= DL_HEAD_MAX:
            raise ValueError(f"head_dim is {head_dim}, expected 1 to {DL_HEAD_MAX}")
        self.layers, self.kv_heads, self.head_dim = layers, kv_heads, head_dim
        self.positions, self.half = (positions + 15) // 16 * 16, half
        self.padded = (head_dim + 15) // 16 * 16
        self.width = 2 if half else 4
        size = layers * kv_heads * self.positions * (self.head_dim + self.padded) * self.width
        self.memories = [Memory(size) for _ in range(contexts)]
        self.memory = self.memories[0]

    @property
    def nbytes(self):
        """Bytes reserved; pages are taken as positions fill."""
        return self.memory.nbytes * len(self.memories)

    cdef char *keys(self, int64_t layer, int64_t kv_head) noexcept nogil:
        cdef int64_t head = layer * self.kv_heads + kv_head
        return self.memory.data + head * self.positions * self.head_dim * self.width

    cdef char *values(self, int64_t layer, int64_t kv_head) noexcept nogil:
        cdef int64_t head = layer * self.kv_heads + kv_head
        return self.keys(self.layers, 0) + head * self.positions * self.padded * self.width

    cdef void put(self, const dl_attention *f, int64_t layer, int64_t kv_head, int64_t position,
                  const float *key, const float *value) noexcept nogil:
        cdef char *keys = self.keys(layer, kv_head)
        cdef char *values = self.values(layer, kv_head)
        cdef int64_t i = position // 16 * 16 * self.head_dim + position % 16
        cdef int64_t d, size = self.head_dim
        cdef float row[DL_HEAD_MAX]
        cdef uint16_t halves[DL_HEAD_MAX]
        if not self.half:
            for d in range(size):
                (<float *> keys)[i + 16 * d] = key[d]
            memcpy(values + position * self.padded * 4, value, size * 4)
            return
        memcpy(row, key, size * sizeof(float))
        for d in range(size, self.padded):
            row[d] = 0
        f.to_half(row, <int> self.padded, halves)
        for d in range(size):
            (<uint16_t *> keys)[i + 16 * d] = halves[d]
        memcpy(row, value, size * sizeof(float))
        f.to_half(row, <int> self.padded, <uint16_t *> values + position * self.padded)

    cdef int use(self, int64_t context, int64_t source, int64_t positions) except -1:
        cdef Memory other = self.memories[source]
        cdef int64_t head, bytes_of_16 = 16 * self.head_dim * self.width
        self.memory = self.memories[context]
        cdef int64_t way = other.data - self.memory.data
        if source == context:
            return 0
        for head in range(self.layers * self.kv_heads):
            memcpy(self.keys(0, head), self.keys(0, head) + way,
                   (positions + 15) // 16 * bytes_of_16)
            memcpy(self.values(0, head), self.values(0, head) + way,
                   positions * self.padded * self.width)
        return 0


cdef Attention attention_job(KVCache cache, int64_t layer, int64_t group, int64_t heads,
                             int64_t skipped) noexcept:
    cdef Attention a
    a.floats = dl_attention_of(dl_isa())
    a.keys, a.values = cache.keys(layer, 0), cache.values(layer, 0)
    a.keys_step = cache.positions * cache.head_dim * cache.width
    a.values_step = cache.positions * cache.padded * cache.width
    a.width, a.half = cache.width, cache.half
    a.kv_heads, a.group, a.heads, a.skipped = cache.kv_heads, group, heads, skipped
    a.size, a.padded = cache.head_dim, cache.padded
    a.chunks = _chunks(cache.positions)
    a.scale, a.cap = <float> (1.0 / sqrt(<double> a.size)), 0
    a.q, a.q_ld, a.out, a.out_ld, a.parts = NULL, 0, NULL, 0, NULL
    return a


cdef Group group_of(const Attention *a, int64_t kv_head) noexcept nogil:
    cdef Group g
    g.first = max(0, kv_head * a.group - a.skipped)
    g.count = min(a.heads, (kv_head + 1) * a.group - a.skipped) - g.first
    return g


cdef inline int64_t _chunks(int64_t positions) noexcept nogil:
    return (positions + DL_CHUNK - 1) // DL_CHUNK


cdef int64_t attention_parts(KVCache cache, int64_t group) noexcept:
    return SPLIT_TOKENS * cache.kv_heads * group * _chunks(cache.positions)


cdef inline bint _split(int64_t T, int64_t position) noexcept nogil:
    """Whether chunks are items of their own: few rows, and more than one chunk to read."""
    return T <= SPLIT_TOKENS and position + T > DL_CHUNK


cdef inline int64_t _item_tokens(const Attention *a) noexcept nogil:
    """Tokens of an item of a long batch."""
    return max(1, ITEM_ROWS // a.group)


cdef int64_t attend_items(const Attention *a, int64_t T, int64_t position) noexcept nogil:
    cdef int64_t step = _item_tokens(a)
    if _split(T, position):
        return a.kv_heads * _chunks(position + T)
    return a.kv_heads * ((T + step - 1) // step)


cdef void attend_item(const Attention *a, int64_t T, int64_t position, int64_t i) noexcept nogil:
    cdef int64_t units = attend_items(a, T, position) // a.kv_heads
    cdef int64_t kv_head = i // units, unit = i % units
    cdef Group g = group_of(a, kv_head)
    cdef int64_t step = _item_tokens(a), row = 0, end = T * g.count
    if not _split(T, position):
        unit = (T + step - 1) // step - 1 - unit  # the longest rows first
        row, end = unit * step * g.count, min(end, (unit + 1) * step * g.count)
    while row < end:
        if _split(T, position):
            _attend_split(a, kv_head, &g, unit, units, position, row,
                          min(DL_ATTEND_ROWS, end - row))
        else:
            _attend_rows(a, kv_head, &g, position, row, min(DL_ATTEND_ROWS, end - row))
        row += DL_ATTEND_ROWS


cdef inline void _gather(const Attention *a, const Group *g, int64_t row, int64_t n,
                         float *q) noexcept nogil:
    """Scaled query rows [n][size]; row = token * count + head within the group."""
    cdef int64_t r, d
    cdef const float *src
    for r in range(n):
        src = a.q + (row + r) // g.count * a.q_ld + (g.first + (row + r) % g.count) * a.size
        for d in range(a.size):
            q[r * a.size + d] = src[d] * a.scale


cdef inline void _attend_chunk(const Attention *a, dl_attend *job, int64_t kv_head,
                               const Group *g, int64_t chunk, int64_t chunks, int64_t position,
                               int64_t row, int64_t n) noexcept nogil:
    """The job's rows against one chunk of `chunks`; the result is in job.part."""
    cdef int64_t first = chunk * DL_CHUNK, r
    cdef int64_t seen
    job.count = 0
    for r in range(n):
        seen = position + (row + r) // g.count + 1 - first
        job.limit[r] = <int> max(0, min(DL_CHUNK, seen))
        job.count = max(job.count, job.limit[r])
    job.size, job.padded, job.cap = <int> a.size, <int> a.padded, a.cap
    job.k = a.keys + kv_head * a.keys_step + first * a.size * a.width
    job.v = a.values + kv_head * a.values_step + first * a.padded * a.width
    job.next = _keys_after(a, kv_head, chunk, chunks)
    a.floats.attend[a.half](job, <int> n)


cdef inline const char *_keys_after(const Attention *a, int64_t kv_head, int64_t chunk,
                                    int64_t chunks) noexcept nogil:
    """The keys that follow a chunk of `chunks`: those of the next one, or of the next head."""
    if chunk + 1 == chunks:
        kv_head, chunk = min(kv_head + 1, a.kv_heads - 1), -1
    return a.keys + kv_head * a.keys_step + (chunk + 1) * DL_CHUNK * a.size * a.width


cdef void _attend_rows(const Attention *a, int64_t kv_head, const Group *g, int64_t position,
                       int64_t row, int64_t n) noexcept nogil:
    """All chunks of n rows, merged as they come."""
    cdef float q[DL_ATTEND_ROWS * DL_HEAD_MAX]
    cdef float scores[DL_ATTEND_ROWS * DL_CHUNK]
    cdef dl_part total[DL_ATTEND_ROWS]
    cdef dl_part part[DL_ATTEND_ROWS]
    cdef dl_attend job
    cdef int64_t chunk, r, chunks = _chunks(position + (row + n - 1) // g.count + 1)
    _gather(a, g, row, n, q)
    job.q, job.scores = q, scores
    for chunk in range(chunks):
        job.part = &total[0] if chunk == 0 else &part[0]
        _attend_chunk(a, &job, kv_head, g, chunk, chunks, position, row, n)
        for r in range(n):
            if chunk and job.limit[r]:
                a.floats.merge(&total[r], &part[r], <int> a.padded)
    for r in range(n):
        a.floats.finish(&total[r], <int> a.size, _out(a, g, row + r))


cdef inline float *_out(const Attention *a, const Group *g, int64_t row) noexcept nogil:
    """Where the result of a row of a group goes."""
    return a.out + row // g.count * a.out_ld + (g.first + row % g.count) * a.size


cdef void _attend_split(const Attention *a, int64_t kv_head, const Group *g, int64_t chunk,
                        int64_t chunks, int64_t position, int64_t row, int64_t n) noexcept nogil:
    """One chunk of n rows, kept for merge_item."""
    cdef float q[DL_ATTEND_ROWS * DL_HEAD_MAX]
    cdef float scores[DL_ATTEND_ROWS * DL_CHUNK]
    cdef dl_part part[DL_ATTEND_ROWS]
    cdef dl_attend job
    cdef int64_t r
    _gather(a, g, row, n, q)
    job.q, job.scores, job.part = q, scores, part
    _attend_chunk(a, &job, kv_head, g, chunk, chunks, position, row, n)
    for r in range(n):
        if job.limit[r]:
            memcpy(_part(a, kv_head, row + r, chunk), &part[r], _part_bytes(a))


cdef inline int64_t _part_bytes(const Attention *a) noexcept nogil:
    return (2 + a.padded) * sizeof(float)


cdef inline dl_part *_part(const Attention *a, int64_t kv_head, int64_t row,
                           int64_t chunk) noexcept nogil:
    """The partial result of a row and chunk."""
    cdef int64_t rows = SPLIT_TOKENS * a.group
    return a.parts + (kv_head * rows + row) * a.chunks + chunk


cdef int64_t merge_items(const Attention *a, int64_t T, int64_t position) noexcept nogil:
    return a.heads * T if _split(T, position) else 0


cdef void merge_item(const Attention *a, int64_t T, int64_t position, int64_t i) noexcept nogil:
    cdef int64_t head = i % a.heads, t = i // a.heads, chunk
    cdef int64_t kv_head = (head + a.skipped) // a.group
    cdef Group g = group_of(a, kv_head)
    cdef int64_t row = t * g.count + head - g.first
    cdef dl_part *total = _part(a, kv_head, row, 0)
    for chunk in range(1, _chunks(position + t + 1)):
        a.floats.merge(total, _part(a, kv_head, row, chunk), <int> a.padded)
    a.floats.finish(total, <int> a.size, _out(a, &g, row))


def attention(const float[:, :, ::1] q, const float[:, :, ::1] k, const float[:, :, ::1] v,
              int64_t position=0, bint half=False, int threads=1, float scale=0, float cap=0):
    """softmax(q k^T / sqrt(S)) v, causal: float32 (T, H, S) from q (T, H, S), k and v (P, K, S).

    scale, if not 0, takes the place of 1 / sqrt(S), and with a cap cap * tanh(score / cap) that of
    a score.

    Token t stands at position + t; P = position + T. half: keys and values pass through
    float16. ValueError where shapes do not fit.
    """
    cdef int64_t T = q.shape[0], H = q.shape[1], S = q.shape[2], P = k.shape[0], K = k.shape[1], i
    if P != position + T or v.shape[0] != P or k.shape[2] != S or v.shape[2] != S \
            or v.shape[1] != K or K == 0 or H % K:
        raise ValueError("shapes of q, k and v do not fit")
    out = np.empty((T, H, S), np.float32)
    if T == 0:
        return out
    cdef KVCache cache = KVCache(1, K, S, P, half)
    cdef float[:, :, ::1] y = out
    cdef Attention a = attention_job(cache, 0, H // K, H, 0)
    cdef Memory parts = Memory(attention_parts(cache, H // K) * sizeof(dl_part))
    a.scale, a.cap = scale or a.scale, cap
    a.q, a.q_ld, a.out, a.out_ld = &q[0, 0, 0], H * S, &y[0, 0, 0], H * S
    a.parts = <dl_part *> parts.data
    for i in prange(P * K, nogil=True, num_threads=threads):
        cache.put(a.floats, 0, i % K, i // K, &k[i // K, i % K, 0], &v[i // K, i % K, 0])
    for i in prange(attend_items(&a, T, position), nogil=True, num_threads=threads):
        attend_item(&a, T, position, i)
    for i in prange(merge_items(&a, T, position), nogil=True, num_threads=threads):
        merge_item(&a, T, position, i)
    return out
