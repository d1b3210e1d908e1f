"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1).

A token keeps a latent, and a part of keys that RoPE rotates, for all heads together. The matrices
that make keys and values of the latent are applied to queries and to mixed latents instead, so
attention has one KV head: its keys are latent and rotated part, its values the latents. The cache
stores keys only.

T: rows of the batch, H: query heads of this node, L: numbers of a latent.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from dllama._kernels.op cimport Bindings, Op, Pass
from dllama._kernels.ops.elementwise cimport Rows, dl_rows, put_row
from dllama._kernels.ops.kv_cache cimport (
    KVBlocks, KVCache, attention_kernels, dl_attention, kv_put,
)
from dllama._kernels.ops.matmul cimport STORE, Matmul, matmul_item, matmul_items, matmul_job
from dllama._kernels.ops.rope cimport RopeCache, rope_cache, rope_head
from dllama._kernels.packed cimport PackedMatrix


cdef struct Latent:
    const float *kv                 # [T][size]: latent, then the part that is rotated
    const float *q                  # [T][H][q_size]: that part is at the end
    float *queries                  # [T][H][size]: behind the first L, it is written here
    int64_t heads, q_size
    int64_t rotated                 # numbers of the rotated part
    const float *norm               # [L]
    float epsilon
    const float *turns              # [positions][pairs][2]
    const float *long_turns         # the same for long texts
    int64_t pairs
    bint halves
    const KVBlocks *cache
    const dl_attention *floats
    int64_t layer                   # of the cache
    int64_t blocks                  # where the blocks of this cache begin in those of the batch


cdef int64_t latent_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * ((<const Latent *> op).heads + 1)


cdef int latent_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """The query of one head of one row or, behind the last head, its key and value."""
    cdef const Latent *r = <const Latent *> op
    cdef int64_t h = i % (r.heads + 1), t = i // (r.heads + 1), size = r.cache.size
    cdef int64_t latent = size - r.rotated, position = run.batch.positions[t]
    cdef const float *turns = r.long_turns if run.batch.lengthened[t] else r.turns
    cdef const float *src
    cdef float *dst
    turns += position * 2 * r.pairs
    if h < r.heads:
        src = r.q + (t * r.heads + h + 1) * r.q_size - r.rotated
        dst = r.queries + (t * r.heads + h) * size + latent
        memcpy(dst, src, r.rotated * sizeof(float))
        rope_head(dst, turns, r.pairs, r.halves)
        return 0
    src = r.kv + t * size
    run.floats.rmsnorm(src, r.norm, r.epsilon, latent, scratch)
    memcpy(scratch + latent, src + latent, r.rotated * sizeof(float))
    rope_head(scratch + latent, turns, r.pairs, r.halves)
    kv_put(r.cache, r.floats, run.batch.blocks[r.blocks + t], r.layer, 0, position, scratch, scratch)
    return 0


cdef class LatentOp(Op):
    """Normalises latents, rotates parts of q in src and of keys; stores both in the KV cache.

    The rotated parts of queries become those of dst.
    """

    cdef Latent op
    cdef KVCache cache
    cdef RopeCache turns, long_turns

    def __init__(self, Bindings b, task):
        cdef Latent *r = &self.op
        rope = task.heads.rope
        self.cache = b.caches[task.heads.cache]
        r.cache, r.layer = &self.cache.view, task.heads.cache_layer
        r.blocks = <int64_t> task.heads.cache * b.batch_rows
        r.floats, r.epsilon, r.heads = attention_kernels(), task.epsilon, task.heads.count
        r.rotated = r.cache.size - r.cache.value_size
        self.turns = rope_cache(b, rope.frequencies, b.max_positions, rope.factor)
        self.long_turns = rope_cache(b, rope.long_frequencies or rope.frequencies, b.max_positions,
                                     rope.factor)
        r.turns, r.long_turns = self.turns.at(0), self.long_turns.at(0)
        r.pairs, r.halves = self.turns.pairs, rope.halves
        r.kv, r.q, r.queries = b.floats(task.latents), b.floats(task.src), b.floats(task.dst)
        r.q_size = b.rows(task.src).k // r.heads
        for name, expected in ((task.latents, r.cache.size), (task.dst, r.heads * r.cache.size),
                               (task.src, r.heads * r.q_size)):
            if b.rows(name).k != expected:
                raise ValueError(f"{name} has {b.rows(name).k} columns, expected {expected}")
        if r.rotated != 2 * r.pairs or r.q_size < r.rotated:
            raise ValueError(f"{r.pairs} pairs do not fit {r.rotated} numbers of {r.q_size}")
        r.norm = b.vector(task.weight, r.cache.value_size)
        self.scratch = r.cache.size + 16
        self.stage(latent_items, latent_item, r)


cdef struct HeadsMatmul:
    Matmul job                      # for the first head
    int64_t heads, head_bytes       # of the matrix of a head
    const float *src                # [T][ld]
    int64_t ld, src_stride          # from the numbers of a head to those of the next
    dl_rows rows                    # [H][most rows], what the product of each head reads
    int64_t max_rows
    int64_t dst_stride


cdef inline dl_rows _of_head(const HeadsMatmul *m, int64_t h) noexcept nogil:
    cdef dl_rows rows = m.rows
    cdef int64_t first = h * m.max_rows, blocks = first * (rows.k // 32)
    if rows.x != NULL:
        rows.x += first * rows.k
        return rows
    rows.q, rows.d = rows.q + first * rows.k, rows.d + blocks
    rows.s, rows.h = rows.s + blocks, rows.h + blocks
    return rows


cdef int64_t put_items(const Pass *run, const void *op) noexcept nogil:
    return run.batch.rows * (<const HeadsMatmul *> op).heads


cdef int put_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """Put the numbers of one head of one row where its product reads them."""
    cdef const HeadsMatmul *m = <const HeadsMatmul *> op
    cdef int64_t h = i % m.heads, t = i // m.heads
    cdef dl_rows rows = _of_head(m, h)
    put_row(run.floats, &rows, run.batch.rows, t, m.src + t * m.ld + h * m.src_stride)
    return 0


cdef int64_t product_items(const Pass *run, const void *op) noexcept nogil:
    cdef const HeadsMatmul *m = <const HeadsMatmul *> op
    return m.heads * matmul_items(&m.job)


cdef int product_item(const Pass *run, const void *op, int64_t i, float *scratch) noexcept nogil:
    """Some rows of the matrix of one head, for all rows of the batch."""
    cdef const HeadsMatmul *m = <const HeadsMatmul *> op
    cdef int64_t pieces = matmul_items(&m.job), h = i // pieces
    cdef dl_rows rows = _of_head(m, h)
    cdef Matmul job = m.job
    job.w += h * m.head_bytes
    job.src, job.dst = &rows, m.job.dst + h * m.dst_stride
    matmul_item(&job, run.batch.rows, i % pieces)
    return 0


cdef class HeadsMatmulOp(Op):
    """dst = for each head, its matrix times its numbers in src.

    The matrices of all heads are one below another, each padded to whole panels.
    """

    cdef HeadsMatmul op
    cdef PackedMatrix matrix
    cdef Rows rows

    def __init__(self, Bindings b, task):
        cdef HeadsMatmul *m = &self.op
        parts = task.parts
        self.matrix = b.matrices[task.weight]
        key = ("heads", parts.heads, self.matrix.cols, self.matrix.quantised)
        count, k, quantised = parts.heads * b.max_rows, self.matrix.cols, self.matrix.quantised
        self.rows = b.shared(key, lambda: Rows(count, k, quantised))
        m.heads, m.max_rows, m.rows = parts.heads, b.max_rows, self.rows.view
        m.src, m.ld, m.src_stride = b.floats(task.src), b.rows(task.src).k, parts.src_stride
        m.job = matmul_job(self.matrix, &self.rows.view, STORE, b.threads)
        if self.matrix.rows % (16 * m.heads) or not 0 <= self.matrix.rows // m.heads - parts.rows < 16:
            raise ValueError(f"{task.weight} has {self.matrix.rows} rows, not panels of {m.heads} "
                             f"heads of {parts.rows}")
        m.head_bytes = self.matrix.rows // m.heads // 16 * self.matrix.stride
        m.job.rows, m.dst_stride = parts.rows, parts.dst_stride
        m.job.dst, m.job.ld = b.floats(task.dst) + <int64_t> task.column, b.rows(task.dst).k
        if (m.heads - 1) * m.src_stride + m.job.k > m.ld \
                or task.column + (m.heads - 1) * m.dst_stride + m.job.rows > m.job.ld:
            raise ValueError(f"{task.weight} does not fit {task.src} and {task.dst}")
        self.stage(put_items, put_item, m)
        self.stage(product_items, product_item, m)
