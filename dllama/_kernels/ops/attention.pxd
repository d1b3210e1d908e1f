# Grouped-query attention over the KV cache, as stages of independent items.

from libc.stdint cimport int64_t

from dllama._kernels.ops.elementwise cimport dl_batch, dl_span
from dllama._kernels.ops.kv_cache cimport DL_KV_BLOCK, KVBlocks, dl_attention, dl_partial


cdef enum:
    # Most rows of a span whose blocks become items of their own. Longer spans have enough rows for
    # all threads.
    SPLIT_ROWS = 4
    # Most rows of a batch whose partials are kept for merging.
    PARTIAL_ROWS = 16

# Whether the blocks of a span become items of their own: few rows, more than one block.
cdef inline bint splits(int64_t count, int64_t position) noexcept nogil:
    return count <= SPLIT_ROWS and position + count > DL_KV_BLOCK

# Set whether a span keeps partials, after so many rows that do. Returns how many do then.
cdef inline int64_t keep_partials(dl_span *span, int64_t partials) noexcept nogil:
    if not splits(span.count, span.position) or partials + span.count > PARTIAL_ROWS:
        span.partials = -1
        return partials
    span.partials = partials
    return partials + span.count

cdef struct Heads:
    int64_t count, kv_count         # query heads and KV heads of this node
    int64_t group                   # query heads that read one KV head, over all nodes
    int64_t skipped                 # query heads of the first KV group that lower ranks hold

# The query heads of this node that read one KV head.
cdef struct KVGroup:
    int64_t first, count

# The heads that a dllama.graph.graph.Heads describes.
cdef Heads heads_of(object heads) except *
cdef KVGroup kv_group(const Heads *heads, int64_t kv_head) noexcept nogil

cdef struct Attention:
    const dl_attention *floats
    const KVBlocks *kv
    Heads heads
    int64_t layer
    float scale                     # factor of q k^T
    float cap                       # soft cap of the scores; 0: no cap
    const char *sinks               # [count] partials of the sinks of heads; NULL: none
    int64_t window                  # positions that a row sees, its own included; 0: all before
    int64_t table                   # where the blocks of this cache begin in those of a span
    const float *q                  # [T][q_ld], the heads of a row side by side
    int64_t q_ld
    float *out                      # [T][out_ld], laid out like q
    int64_t out_ld
    int64_t partial_rows            # rows that partials has room for
    int64_t blocks                  # most blocks that the rows of a span with partials see
    char *partials                  # [kv_count][partial_rows * group][blocks] of partial_bytes
    int64_t partial_bytes           # a dl_partial cut after the elements of a value

# Bytes of partials.
cdef int64_t partials_size(const Attention *a) noexcept nogil
# Two stages: all attend items, then, when these are done, all merge items (maybe 0).
cdef int64_t attend_count(const Attention *a, const dl_batch *batch) noexcept nogil
cdef void attend(const Attention *a, const dl_batch *batch, int64_t i) noexcept nogil
cdef int64_t merge_count(const Attention *a, const dl_batch *batch) noexcept nogil
cdef void merge(const Attention *a, const dl_batch *batch, int64_t i) noexcept nogil
