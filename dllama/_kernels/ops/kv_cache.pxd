# The KV cache: keys and values in blocks of positions, which sequences share.

from libc.stdint cimport int64_t, uint16_t

from dllama._kernels.memory cimport Memory


cdef extern from "simd/attention.h" nogil:
    enum:
        dl_type_f32
        dl_type_f16
        dl_type_q80
        DL_KV_BLOCK
        DL_ATTEND_ROWS
        DL_HEAD_MAX
    ctypedef struct dl_partial:
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
        int values
        int stride
        int begin
        int count
        int *first
        int *limit
        float cap
        float *scores
        dl_partial *partial
    ctypedef struct dl_attention:
        void (**attend)(const dl_attend *a, int n) noexcept nogil
        void (**attend_shared)(const dl_attend *a, int n) noexcept nogil
        void (*merge)(dl_partial *into, const dl_partial *partial, int n) noexcept nogil
        void (*finish)(const dl_partial *partial, int n, float *out) noexcept nogil
        void (*to_half)(const float *x, int n, uint16_t *dst) noexcept nogil
        void (*put_q80)(const float *x, int size, int at, int is_value, void *panels) noexcept nogil
    int64_t dl_kv_bytes(int type, int64_t positions, int64_t elements)


# Blocks [block][layer][kv_head] of keys [positions / 16][size][16], then values
# [positions][value_padded];
# in Q80 of the panels of both (simd/attention.h). Shared ones have only keys, [positions][padded] or
# in Q80 panels: values are the first elements of keys.
cdef struct KVBlocks:
    char *data
    int64_t positions               # positions of a block: DL_KV_BLOCK, or a smaller multiple of 16
    int64_t layers, kv_heads
    int64_t size, padded            # elements of a key; the same rounded up to 16
    int64_t value_size, value_padded  # those of a value
    int64_t head_bytes, keys_bytes  # keys and values of one head in a block; the keys alone
    bint shared
    int type                        # dl_type_f32, dl_type_f16 or dl_type_q80

cdef inline char *kv_keys(const KVBlocks *kv, int64_t block, int64_t layer,
                          int64_t kv_head) noexcept nogil:
    return kv.data + ((block * kv.layers + layer) * kv.kv_heads + kv_head) * kv.head_bytes

cdef inline char *kv_values(const KVBlocks *kv, int64_t block, int64_t layer,
                            int64_t kv_head) noexcept nogil:
    return kv_keys(kv, block, layer, kv_head) + (0 if kv.shared else kv.keys_bytes)

# The kernels of the instruction set in use.
cdef const dl_attention *attention_kernels() noexcept nogil

# Store key[size] and value[value_size] of a position of the sequence. A shared cache reads no value.
cdef void kv_put(const KVBlocks *kv, const dl_attention *f, int64_t block, int64_t layer,
                 int64_t kv_head, int64_t position, const float *key,
                 const float *value) noexcept nogil


# What sequences keep of some layers, in blocks of the same size.
cdef class Cache:
    cdef Memory memory
    cdef readonly int64_t blocks
    cdef int64_t block_bytes
    # Copy block `source` to block `target`.
    cdef int copy(self, int64_t source, int64_t target) except -1


cdef class KVCache(Cache):
    cdef KVBlocks view
