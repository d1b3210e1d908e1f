"""Causal grouped-query attention over a KV cache of float32, float16 or Q80.

T: rows of the batch, H: query heads, K: KV heads, S: elements of a key, V: of a value. group = H / K query heads
read one KV head. A row at position p sees positions 0 to p of its sequence, or, with a window W,
the last W of them. Blocks before all windows are not read. Scores and sums are
float32. The cache is read block by block, and partials are merged in the order of positions
(simd/attention.h), so the result does not depend on the batch or the number of threads.
"""

from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

import numpy as np

from dllama._kernels.memory cimport Memory
from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport dl_span
from dllama._kernels.ops.kv_cache cimport (
    DL_ATTEND_ROWS, DL_HEAD_MAX, DL_KV_BLOCK, KVBlocks, KVCache, attention_kernels, dl_attend,
    dl_type_f32, kv_keys, kv_put, kv_values,
)

from dllama._kernels.ops.kv_cache import block_positions


# Query rows in an item of a long span. A query row is one head of a row of the batch.
cdef enum:
    ITEM_ROWS = 32


cdef Heads heads_of(object heads) except *:
    cdef Heads h
    h.count, h.kv_count = heads.count, heads.kv_count
    h.group, h.skipped = heads.group, heads.skipped
    return h


cdef KVGroup kv_group(const Heads *heads, int64_t kv_head) noexcept nogil:
    cdef KVGroup g
    g.first = max(0, kv_head * heads.group - heads.skipped)
    g.count = min(heads.count, (kv_head + 1) * heads.group - heads.skipped) - g.first
    return g


cdef inline int64_t _blocks(const KVBlocks *kv, int64_t positions) noexcept nogil:
    return (positions + kv.positions - 1) // kv.positions


cdef inline int64_t _hidden(const Attention *a, int64_t position) noexcept nogil:
    """Positions before the window of a row."""
    return max(0, position + 1 - a.window) if a.window else 0


cdef inline int64_t _first_block(const Attention *a, int64_t position) noexcept nogil:
    """The first block that a row sees."""
    return _hidden(a, position) // a.kv.positions


cdef int64_t _most_blocks(const Attention *a, int64_t max_positions) noexcept nogil:
    """Most blocks that SPLIT_ROWS rows at consecutive positions see."""
    cdef int64_t blocks = _blocks(a.kv, max_positions)
    if a.window:
        blocks = min(blocks, _blocks(a.kv, min(a.window, max_positions) + SPLIT_ROWS) + 1)
    return blocks


cdef int64_t partials_size(const Attention *a) noexcept nogil:
    return a.heads.kv_count * a.partial_rows * a.heads.group * a.blocks * a.partial_bytes


cdef inline bint _split(const dl_span *span) noexcept nogil:
    """Whether the blocks of a span are items of their own, and partials are kept."""
    return span.partials >= 0


cdef inline int64_t _item_rows(const Attention *a, int64_t heads) noexcept nogil:
    """Query rows in an item of a long span, of which a row of the batch has `heads` for a KV head."""
    return max(1, ITEM_ROWS // a.heads.group) * heads if a.heads.group <= ITEM_ROWS else ITEM_ROWS


cdef inline int64_t _units(const Attention *a, const dl_span *span) noexcept nogil:
    """Items of a span for each KV head."""
    cdef int64_t heads = min(a.heads.group, a.heads.count), rows = _item_rows(a, heads)
    if _split(span):
        return _blocks(a.kv, span.position + span.count) - _first_block(a, span.position)
    return (span.count * heads + rows - 1) // rows


cdef int64_t attend_count(const Attention *a, const dl_batch *batch) noexcept nogil:
    cdef int64_t s, units = 0
    for s in range(batch.n_spans):
        units += _units(a, &batch.spans[s])
    return a.heads.kv_count * units


cdef void attend(const Attention *a, const dl_batch *batch, int64_t i) noexcept nogil:
    cdef const dl_span *span = batch.spans
    cdef int64_t units = _units(a, span)
    while i >= a.heads.kv_count * units:
        i -= a.heads.kv_count * units
        span += 1
        units = _units(a, span)
    _attend_item(a, span, i // units, i % units, units)


cdef void _attend_item(const Attention *a, const dl_span *span, int64_t kv_head, int64_t unit,
                       int64_t units) noexcept nogil:
    """One block for all rows of a short span, or all blocks for some rows of a long one."""
    cdef KVGroup g = kv_group(&a.heads, kv_head)
    cdef int64_t rows = _item_rows(a, g.count), row = 0, end = span.count * g.count
    if _split(span):
        unit += _first_block(a, span.position)
    else:
        unit = units - 1 - unit  # later rows attend to more positions: the slowest items first
        row, end = unit * rows, min(end, (unit + 1) * rows)
    while row < end:
        if _split(span):
            _attend_block(a, span, kv_head, &g, unit, row, min(DL_ATTEND_ROWS, end - row))
        else:
            _attend_rows(a, span, kv_head, &g, row, min(DL_ATTEND_ROWS, end - row))
        row += DL_ATTEND_ROWS


cdef inline void _gather(const Attention *a, const dl_span *span, const KVGroup *g, int64_t row,
                         int64_t n, float *q) noexcept nogil:
    """q[n][size] = scaled query rows; row = row of the span * g.count + head within the group."""
    cdef int64_t r, d, size = a.kv.size
    cdef const float *src
    for r in range(n):
        src = a.q + (span.first + (row + r) // g.count) * a.q_ld \
            + (g.first + (row + r) % g.count) * size
        for d in range(size):
            q[r * size + d] = src[d] * a.scale


cdef inline void _attend_to(const Attention *a, dl_attend *job, const dl_span *span, int64_t kv_head,
                            const KVGroup *g, int64_t block, int64_t blocks, int64_t row,
                            int64_t n) noexcept nogil:
    """Attend n query rows to a block; their blocks end at `blocks`. The result is in job.partial."""
    cdef const int32_t *table = span.blocks + a.table
    cdef int64_t first = _first_block(a, span.position + row // g.count)
    if not _limits(a, job, span, g, block, row, n):
        return
    job.size, job.padded, job.values = <int> a.kv.size, <int> a.kv.padded, <int> a.kv.value_padded
    job.stride, job.cap = job.padded if a.kv.shared else job.values, a.cap
    job.k = kv_keys(a.kv, table[block], a.layer, kv_head)
    job.v = kv_values(a.kv, table[block], a.layer, kv_head)
    if block + 1 < blocks:
        job.next = kv_keys(a.kv, table[block + 1], a.layer, kv_head)
    else:
        job.next = kv_keys(a.kv, table[first], a.layer, min(kv_head + 1, a.kv.kv_heads - 1))
    if a.kv.shared:
        a.floats.attend_shared[a.kv.type](job, <int> n)
    else:
        a.floats.attend[a.kv.type](job, <int> n)


cdef inline bint _limits(const Attention *a, dl_attend *job, const dl_span *span, const KVGroup *g,
                         int64_t block, int64_t row, int64_t n) noexcept nogil:
    """Set which positions of a block n query rows see. Returns whether any row sees any."""
    cdef int64_t at = block * a.kv.positions, begin = a.kv.positions, end = 0, r, p, first, limit
    for r in range(n):
        p = span.position + (row + r) // g.count
        first, limit = max(0, _hidden(a, p) - at), max(0, min(a.kv.positions, p + 1 - at))
        if first >= limit:
            first = limit = 0
        else:
            begin, end = min(begin, first), max(end, limit)
        job.first[r], job.limit[r] = <int> first, <int> limit
    job.begin, job.count = <int> (begin // 16 * 16), <int> end
    return end > 0


cdef void _attend_rows(const Attention *a, const dl_span *span, int64_t kv_head, const KVGroup *g,
                       int64_t row, int64_t n) noexcept nogil:
    """Attend n query rows to all their blocks; partials are merged as they come."""
    cdef float q[DL_ATTEND_ROWS * DL_HEAD_MAX]
    cdef float scores[DL_ATTEND_ROWS * DL_KV_BLOCK]
    cdef dl_partial total[DL_ATTEND_ROWS]
    cdef dl_partial partial[DL_ATTEND_ROWS]
    cdef dl_attend job
    cdef bint begun[DL_ATTEND_ROWS]
    cdef int64_t block, r, first = _first_block(a, span.position + row // g.count)
    cdef int64_t blocks = _blocks(a.kv, span.position + (row + n - 1) // g.count + 1)
    _gather(a, span, g, row, n, q)
    job.q, job.scores = q, scores
    memset(begun, 0, sizeof(begun))
    for block in range(first, blocks):
        job.partial = &total[0] if block == first else &partial[0]
        _attend_to(a, &job, span, kv_head, g, block, blocks, row, n)
        for r in range(n):
            if begun[r] and job.limit[r]:
                a.floats.merge(&total[r], &partial[r], <int> a.kv.value_padded)
            elif block > first and job.limit[r]:
                memcpy(&total[r], &partial[r], a.partial_bytes)
            begun[r] = begun[r] or job.limit[r] > 0
    for r in range(n):
        _finish(a, span, g, row + r, &total[r])


cdef inline void _finish(const Attention *a, const dl_span *span, const KVGroup *g, int64_t row,
                         dl_partial *total) noexcept nogil:
    """Write the result of a query row. A sink is one more score, of a value of zeros."""
    cdef int64_t head = g.first + row % g.count
    if a.sinks != NULL:
        a.floats.merge(total, <dl_partial *> (a.sinks + head * a.partial_bytes),
                       <int> a.kv.value_padded)
    a.floats.finish(total, <int> a.kv.value_size, _out(a, span, g, row))


cdef inline float *_out(const Attention *a, const dl_span *span, const KVGroup *g,
                        int64_t row) noexcept nogil:
    """Where the result of a query row goes."""
    return a.out + (span.first + row // g.count) * a.out_ld + (g.first + row % g.count) * a.kv.value_size


cdef void _attend_block(const Attention *a, const dl_span *span, int64_t kv_head, const KVGroup *g,
                        int64_t block, int64_t row, int64_t n) noexcept nogil:
    """Attend n query rows to one block; keep the partials for merge."""
    cdef float q[DL_ATTEND_ROWS * DL_HEAD_MAX]
    cdef float scores[DL_ATTEND_ROWS * DL_KV_BLOCK]
    cdef dl_partial partial[DL_ATTEND_ROWS]
    cdef dl_attend job
    cdef int64_t r
    _gather(a, span, g, row, n, q)
    job.q, job.scores, job.partial = q, scores, partial
    _attend_to(a, &job, span, kv_head, g, block, _blocks(a.kv, span.position + span.count), row, n)
    for r in range(n):
        if job.limit[r]:
            memcpy(_partial(a, span, kv_head, row + r, block), &partial[r], a.partial_bytes)


cdef inline dl_partial *_partial(const Attention *a, const dl_span *span, int64_t kv_head,
                                 int64_t row, int64_t block) noexcept nogil:
    """The partial of a query row and a block."""
    cdef int64_t first = (kv_head * a.partial_rows + span.partials) * a.heads.group
    block -= _first_block(a, span.position)
    return <dl_partial *> (a.partials + ((first + row) * a.blocks + block) * a.partial_bytes)


cdef int64_t merge_count(const Attention *a, const dl_batch *batch) noexcept nogil:
    cdef int64_t s, rows = 0
    for s in range(batch.n_spans):
        rows += batch.spans[s].count if _split(&batch.spans[s]) else 0
    return a.heads.count * rows


cdef void merge(const Attention *a, const dl_batch *batch, int64_t i) noexcept nogil:
    cdef const dl_span *span = batch.spans
    while not _split(span) or i >= a.heads.count * span.count:
        i -= a.heads.count * span.count if _split(span) else 0
        span += 1
    cdef int64_t head = i % a.heads.count, t = i // a.heads.count, block
    cdef int64_t kv_head = (head + a.heads.skipped) // a.heads.group
    cdef KVGroup g = kv_group(&a.heads, kv_head)
    cdef int64_t row = t * g.count + head - g.first
    cdef int64_t first = _first_block(a, span.position + t)
    cdef dl_partial *total = _partial(a, span, kv_head, row, first)
    for block in range(first + 1, _blocks(a.kv, span.position + t + 1)):
        a.floats.merge(total, _partial(a, span, kv_head, row, block), <int> a.kv.value_padded)
    _finish(a, span, &g, row, total)


cdef int64_t attend_items(const Pass *run, const void *op) noexcept nogil:
    return attend_count(<const Attention *> op, &run.batch)


cdef int attend_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    attend(<const Attention *> op, &run.batch, i)
    return 0


cdef int64_t merge_items(const Pass *run, const void *op) noexcept nogil:
    return merge_count(<const Attention *> op, &run.batch)


cdef int merge_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    merge(<const Attention *> op, &run.batch, i)
    return 0


cdef class AttentionOp(Op):
    """dst = attention of the queries in src to the keys and values in the cache.

    The weight, if there is one, has the sinks of the heads.
    """

    cdef Attention op
    cdef KVCache cache
    cdef Memory partials, sinks

    def __init__(self, Bindings b, task):
        cdef Attention *a = &self.op
        self.cache = b.caches[task.heads.cache]
        a[0] = _attention(self.cache, b.max_positions, PARTIAL_ROWS, task.heads.window)
        a.heads, a.layer = heads_of(task.heads), task.heads.cache_layer
        a.table = <int64_t> task.heads.cache * b.table_size
        a.scale, a.cap = task.heads.scale, task.heads.cap
        a.q, a.q_ld = b.floats(task.src), b.rows(task.src).k
        a.out, a.out_ld = b.floats(task.dst) + <int64_t> task.heads.offset, b.rows(task.dst).k
        size = partials_size(a)
        self.partials = b.shared(("partials", size), lambda: Memory(size))
        a.partials = self.partials.data
        if task.weight:
            self.sinks = _sinks(b.vector(task.weight, a.heads.count), a)
            a.sinks = self.sinks.data
        self.stage(attend_items, attend_item, a)
        self.stage(merge_items, merge_item, a)


cdef Memory _sinks(const float *sinks, const Attention *a):
    """Partials of sinks: the maximum is the sink, the sum of exponentials 1, all values 0."""
    cdef Memory memory = Memory(a.heads.count * a.partial_bytes)
    cdef dl_partial *partial
    cdef int64_t h
    for h in range(a.heads.count):
        partial = <dl_partial *> (memory.data + h * a.partial_bytes)
        partial.m, partial.l = sinks[h], 1
    return memory


cdef Attention _attention(KVCache cache, int64_t max_positions, int64_t partial_rows,
                          int64_t window) noexcept:
    """An Attention to a cache; what it reads and writes is not set yet."""
    cdef Attention a
    memset(&a, 0, sizeof(a))
    a.floats, a.kv = attention_kernels(), &cache.view
    a.window, a.partial_rows = window, partial_rows
    a.blocks = _most_blocks(&a, max_positions)
    a.partial_bytes = (2 + cache.view.value_padded) * sizeof(float)
    return a


def attention(const float[:, :, ::1] q, const float[:, :, ::1] k, const float[:, :, ::1] v,
              int64_t position=0, int kind=dl_type_f32, int threads=1, float scale=0, float cap=0,
              int64_t window=0, const float[::1] sinks=None, bint shared=False):
    """Causal attention: softmax(q k^T / sqrt(S)) v.

    Args:
        q: float32 (T, H, S); row t is at position `position` + t.
        k: float32 (P, K, S) with P = position + T.
        v: float32 (P, K, V).
        position: position of the first row.
        kind: how keys and values are stored, a WeightType: F32, F16 or Q80.
        threads: how many threads compute.
        scale: if not 0, used instead of 1 / sqrt(S).
        cap: if not 0, a score s becomes cap * tanh(s / cap).
        window: if not 0, how many positions a row sees, its own included.
        sinks: a score of each head for no position at all, float32 (H,); None for none.
        shared: whether values are the first V elements of keys, and v is read for its shape alone.

    Returns:
        float32 (T, H, V).

    Raises:
        ValueError: the shapes do not fit together.
    """
    cdef int64_t T = q.shape[0], H = q.shape[1], S = q.shape[2], V = v.shape[2], P = k.shape[0], K = k.shape[1], i
    if P != position + T or v.shape[0] != P or k.shape[2] != S \
            or v.shape[1] != K or K == 0 or H % K:
        raise ValueError("shapes of q, k and v do not fit")
    out = np.empty((T, H, V), np.float32)
    if T == 0:
        return out
    cdef int64_t size = block_positions(P)
    cdef KVCache cache = KVCache(1, K, S, V, size, (P + size - 1) // size, kind, shared)
    cdef int32_t[::1] blocks = np.arange(cache.blocks, dtype=np.int32)
    cdef float[:, :, ::1] y = out
    cdef dl_span span
    cdef dl_batch batch
    cdef Attention a = _attention(cache, P, SPLIT_ROWS, window)
    memset(&batch, 0, sizeof(batch))
    span.first, span.count, span.position, span.blocks = 0, T, position, &blocks[0]
    span.partials = 0 if splits(T, position) else -1
    batch.rows, batch.n_spans, batch.spans = T, 1, &span
    a.heads.count, a.heads.kv_count, a.heads.group = H, K, H // K
    a.scale, a.cap = scale or <float> (1.0 / sqrt(<double> S)), cap
    a.q, a.q_ld, a.out, a.out_ld = &q[0, 0, 0], H * S, &y[0, 0, 0], H * V
    cdef Memory partials = Memory(partials_size(&a))
    a.partials = partials.data
    cdef Memory sink_partials = None
    if sinks is not None:
        if sinks.shape[0] != H:
            raise ValueError(f"{sinks.shape[0]} sinks, expected {H}")
        sink_partials = _sinks(&sinks[0], &a)
        a.sinks = sink_partials.data
    for i in prange(P * K, nogil=True, num_threads=threads):
        kv_put(a.kv, a.floats, blocks[i // K // a.kv.positions], 0, i % K, i // K, &k[i // K, i % K, 0],
               &v[i // K, i % K, 0])
    for i in prange(attend_count(&a, &batch), nogil=True, num_threads=threads):
        attend(&a, &batch, i)
    for i in prange(merge_count(&a, &batch), nogil=True, num_threads=threads):
        merge(&a, &batch, i)
    return out
