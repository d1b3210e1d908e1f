# The KV cache, and grouped-query attention over it as jobs of independent items.

from libc.stdint cimport int64_t, uint16_t

from dllama._kernels.memory cimport Memory


cdef extern from "simd/attention.h" nogil:
    enum:
        DL_CHUNK
        DL_ATTEND_ROWS
        DL_HEAD_MAX
    ctypedef struct dl_part:
        float m
        float l
        float *o
    ctypedef struct dl_attend:
        const void *k
        const void *v
        const void *next
        const float *q
        int size
        int padded
        int count
        int *limit
        float cap
        float *scores
        dl_part *part
    ctypedef struct dl_attention:
        void (**attend)(const dl_attend *a, int n) noexcept nogil
        void (*merge)(dl_part *into, const dl_part *part, int n) noexcept nogil
        void (*finish)(const dl_part *part, int n, float *out) noexcept nogil
        void (*to_half)(const float *x, int n, uint16_t *dst) noexcept nogil
    const dl_attention *dl_attention_of(int isa)


# Keys [layer][kv_head][positions / 16][size][16], values [layer][kv_head][positions][padded].
cdef class KVCache:
    cdef list memories              # one for each context
    cdef Memory memory              # of the current context, which all methods are about
    cdef readonly int64_t layers, kv_heads, head_dim, positions
    cdef readonly bint half
    cdef int64_t padded
    cdef int64_t width                                              # bytes of an element
    cdef char *keys(self, int64_t layer, int64_t kv_head) noexcept nogil
    cdef char *values(self, int64_t layer, int64_t kv_head) noexcept nogil
    # Store key[head_dim] and value[head_dim] of one position.
    cdef void put(self, const dl_attention *f, int64_t layer, int64_t kv_head, int64_t position,
                  const float *key, const float *value) noexcept nogil
    # Make another context the current one; where `source` is another one, copy its first positions.
    cdef int use(self, int64_t context, int64_t source, int64_t positions) except -1


# Most tokens whose chunks are spread over threads; longer batches have enough rows to share.
cdef enum:
    SPLIT_TOKENS = 4

cdef struct Attention:
    const dl_attention *floats
    const char *keys                # of the layer's first KV head; heads follow each other
    const char *values
    int64_t keys_step, values_step  # bytes from one KV head to the next
    int64_t width, kv_heads, size, padded, chunks
    int64_t group, heads, skipped   # query heads per KV head, here, and before these in a group
    int half
    float scale                     # of q k^T; 1 / sqrt(size) unless set
    float cap                       # of the scores, 0: none
    const float *q                  # [T][q_ld], a token's heads side by side
    int64_t q_ld
    float *out                      # [T][out_ld], as q
    int64_t out_ld
    dl_part *parts                  # [kv_heads][SPLIT_TOKENS * group][chunks of the cache]


# The query heads that read one KV head: from first on, count of them.
cdef struct Group:
    int64_t first, count

# Query heads `skipped` to skipped + heads, where 0 is the first that reads the first KV head.
cdef Attention attention_job(KVCache cache, int64_t layer, int64_t group, int64_t heads,
                             int64_t skipped) noexcept
cdef Group group_of(const Attention *a, int64_t kv_head) noexcept nogil
# How many parts attention_job's `parts` must hold.
cdef int64_t attention_parts(KVCache cache, int64_t group) noexcept
# First all attend items, then, after a barrier, all merge items (there may be none).
cdef int64_t attend_items(const Attention *a, int64_t T, int64_t position) noexcept nogil
cdef void attend_item(const Attention *a, int64_t T, int64_t position, int64_t i) noexcept nogil
cdef int64_t merge_items(const Attention *a, int64_t T, int64_t position) noexcept nogil
cdef void merge_item(const Attention *a, int64_t T, int64_t position, int64_t i) noexcept nogil
