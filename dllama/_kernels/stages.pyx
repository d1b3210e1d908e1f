"""What the threads of a pass do: the items of each step, without the GIL."""

from libc.string cimport memcpy

from dllama._kernels.comm.allreduce cimport (
    first_exchange, pack_item, pack_items, reduce_item, reduce_items, second_exchange, two_step,
    unpack_item, unpack_items,
)
from dllama._kernels.ops.attention cimport (
    Group as HeadGroup, attend_item, attend_items, group_of, merge_item, merge_items,
)
from dllama._kernels.comm.broadcast cimport receive_row, send_row, spread
from dllama._kernels.ops.elementwise cimport put_blocks
from dllama._kernels.ops.matmul cimport matmul_item, matmul_items
from dllama._kernels.ops.moe cimport (
    dispatch_item, gated_item, gated_items, route_item, sort_item, sum_item, sum_items,
)
from dllama._kernels.ops.rope cimport rope_head


# Least blocks of a row for an item of its own.
cdef enum:
    CUT_BLOCKS = 8


cdef inline int64_t _tokens(const Pass *run, const Step *step) noexcept nogil:
    return run.batch.tokens - (run.batch.first_tail if step.tail else 0)


cdef int64_t step_items(const Pass *run, const Step *step) noexcept nogil:
    cdef int64_t T = _tokens(run, step)
    if T == 0:
        return 0
    if step.op == MATMUL:
        return matmul_items(&step.matmul)
    if step.op == ATTEND:
        return attend_items(&step.attention, T, run.batch.position)
    if step.op == MERGE:
        return merge_items(&step.attention, T, run.batch.position)
    if step.op == ROPE:
        return T * step.attention.kv_heads
    if step.op >= SEND_ROW:
        return _transfer_items(step, T)
    if step.op == NORM or step.op == ENCODE:
        return T * _cuts(run, step, T)
    if step.op == SORT:
        return 1
    if step.op == DISPATCH:
        return T * step.routing.taken
    if step.op == EXPERTS_GATED:
        return gated_items(&step.experts)
    if step.op == EXPERTS_SUM:
        return sum_items(&step.experts)
    return T


cdef inline int64_t _cuts(const Pass *run, const Step *step, int64_t T) noexcept nogil:
    """Items of a row that a matmul reads: a thread each, where tokens are fewer than threads."""
    if step.rows == NULL or T >= run.threads:
        return 1
    return max(1, min(run.threads, step.width // (32 * CUT_BLOCKS)))


cdef int64_t _transfer_items(const Step *step, int64_t T) noexcept nogil:
    if step.op == SEND_ROW:
        return T if step.copy.peers.rank == 0 else 0
    if step.op == RECEIVE_ROW:
        return 0 if step.copy.peers.rank == 0 else T
    if step.op == PACK:
        return pack_items(&step.sum, T)
    if step.op == REDUCE:
        return reduce_items(&step.sum, T)
    if step.op == SECOND_EXCHANGE:
        return 1 if two_step(&step.sum, T) else 0
    if step.op == UNPACK:
        return unpack_items(&step.sum, T)
    return 1


cdef void step_item(Pass *run, const Step *step, int64_t i, float *scratch, RopeCache turns,
                    KVCache cache) noexcept nogil:
    cdef int64_t T = _tokens(run, step), width = step.width
    if step.op == MATMUL:
        matmul_item(&step.matmul, T, i)
    elif step.op == ATTEND:
        attend_item(&step.attention, T, run.batch.position, i)
    elif step.op == MERGE:
        merge_item(&step.attention, T, run.batch.position, i)
    elif step.op == ROPE:
        _rope_item(run, step, i, turns, cache)
    elif step.op == NORM:
        _norm_item(run, step, T, i, scratch)
    elif step.op == ENCODE:
        _encode_item(run, step, T, i)
    elif step.op == EMBED:
        memcpy(step.dst + i * width, step.weight + run.batch.ids[i] * width, width * sizeof(float))
    elif step.op == SCALE:
        _scale_item(step, i)
    elif step.op < SEND_ROW:
        _expert_item(run, step, T, i, scratch)
    else:
        _transfer_item(run, step, T, i)


cdef inline void _norm_item(const Pass *run, const Step *step, int64_t T, int64_t i,
                            float *scratch) noexcept nogil:
    """Item i of a norm: a cut as a matmul reads it, or a row as floats or added to floats."""
    cdef int64_t width = step.width, cuts = _cuts(run, step, T), t = i // cuts, j
    cdef float *y = scratch if step.add or step.rows != NULL else step.dst + t * width
    run.floats.rmsnorm(_row(run, step, t), step.weight, run.epsilon, width, y)
    if step.rows != NULL:
        _put_cut(run, step, T, i, y)
    elif step.add:
        for j in range(width):
            step.dst[t * width + j] += y[j]


cdef inline void _encode_item(const Pass *run, const Step *step, int64_t T,
                              int64_t i) noexcept nogil:
    _put_cut(run, step, T, i, _row(run, step, i // _cuts(run, step, T)))


cdef inline const float *_row(const Pass *run, const Step *step, int64_t t) noexcept nogil:
    """Row t of those that the step works on."""
    return step.src + (t + (run.batch.first_tail if step.tail else 0)) * step.width


cdef inline void _put_cut(const Pass *run, const Step *step, int64_t T, int64_t i,
                          const float *x) noexcept nogil:
    """The part of the row x that is item i, as a matmul reads it."""
    cdef int64_t cuts = _cuts(run, step, T), cut = i % cuts, blocks = (step.width + 31) // 32
    cdef int64_t first = blocks * cut // cuts, end = blocks * (cut + 1) // cuts
    put_blocks(run.floats, step.rows, T, i // cuts, first, end - first, x + 32 * first)


cdef inline void _scale_item(const Step *step, int64_t i) noexcept nogil:
    cdef int64_t j
    for j in range(i * step.width, (i + 1) * step.width):
        step.dst[j] = step.src[j] * step.scale


cdef void _expert_item(const Pass *run, const Step *step, int64_t T, int64_t i,
                       float *scratch) noexcept nogil:
    """Item i of a step of a mixture of experts."""
    if step.op == ROUTE:
        route_item(step.routing, run.floats, step.src + i * step.width, i, scratch)
    elif step.op == SORT:
        sort_item(step.routing, T)
    elif step.op == DISPATCH:
        dispatch_item(step.routing, run.floats, step.src, step.width, step.rows, i)
    elif step.op == EXPERTS_GATED:
        gated_item(&step.experts, T, i)
    else:
        sum_item(&step.experts, T, i, scratch)


cdef void _transfer_item(Pass *run, const Step *step, int64_t T, int64_t i) noexcept nogil:
    """Item i of a step of a collective."""
    cdef int failed = 0
    if step.op == SEND_ROW:
        send_row(&step.copy, run.form, i)
    elif step.op == SPREAD:
        failed = spread(&step.copy, run.form, T)
    elif step.op == RECEIVE_ROW:
        receive_row(&step.copy, run.form, i)
    elif step.op == PACK:
        pack_item(&step.sum, T, i)
    elif step.op == FIRST_EXCHANGE:
        failed = first_exchange(&step.sum, T)
    elif step.op == REDUCE:
        reduce_item(&step.sum, T, i)
    elif step.op == SECOND_EXCHANGE:
        failed = second_exchange(&step.sum, T)
    else:
        unpack_item(&step.sum, T, i)
    if failed:
        run.failed = <int> (step - run.steps) + 1  # others read it behind the barrier


cdef void _rope_item(const Pass *run, const Step *step, int64_t i, RopeCache turns,
                     KVCache cache) noexcept nogil:
    """One KV head of one token: norm and turn its queries and its key, store key and value."""
    cdef const Attention *a = &step.attention
    cdef int64_t kv_head = i % a.kv_heads, t = i // a.kv_heads, size = a.size, h
    cdef HeadGroup g = group_of(a, kv_head)
    cdef const float *angles = turns.at(run.batch.position + t)
    cdef float *q = step.dst + t * run.qkv_width
    cdef float *k = q + (a.heads + kv_head) * size
    for h in range(g.first, g.first + g.count):
        if step.weight != NULL:
            run.floats.rmsnorm(q + h * size, step.weight, run.epsilon, size, q + h * size)
        rope_head(q + h * size, angles, run.pairs, run.halves)
    if step.weight != NULL:
        run.floats.rmsnorm(k, step.weight + size, run.epsilon, size, k)
    rope_head(k, angles, run.pairs, run.halves)
    cache.put(a.floats, step.layer, kv_head, run.batch.position + t, k, k + a.kv_heads * size)
