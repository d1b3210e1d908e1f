"""Keys and values of sequences, in blocks like those of vLLM's PagedAttention (Kwon et al. 2023).

A block holds some positions for all layers and KV heads of a node. The root decides which blocks a
sequence has (dllama.runtime.sequences): sequences share the blocks of a common prefix, and a shared
block is copied before it is changed. Attention reads one block at a time, so looking up blocks
costs nothing.
"""

from libc.string cimport memcpy

from dllama._kernels.ops.elementwise cimport dl_isa


cdef extern from "simd/attend.h" nogil:
    const dl_attention *dl_attention_of(int isa)


cdef class Cache:
    """Blocks that the root gives to sequences."""

    @property
    def nbytes(self):
        """Bytes reserved. The system provides pages when they are first used."""
        return self.memory.nbytes

    cdef int copy(self, int64_t source, int64_t target) except -1:
        cdef char *data = self.memory.data
        memcpy(data + target * self.block_bytes, data + source * self.block_bytes, self.block_bytes)
        return 0


cdef class KVCache(Cache):
    """Memory for keys and values.

    Args:
        layers: layers of the model.
        kv_heads: KV heads of this node.
        key_dim: elements of a key, 1 to 576.
        value_dim: elements of a value, 1 to 576.
        positions: positions of a block, from block_positions.
        blocks: number of blocks.
        kind: type of the numbers, a WeightType: F32, F16 or Q80.
        shared: whether values are the first elements of keys, so that only keys are stored.

    Raises:
        ValueError: key_dim, value_dim, positions, blocks or kind are out of range.
    """

    def __cinit__(self, int64_t layers, int64_t kv_heads, int64_t key_dim, int64_t value_dim,
                  int64_t positions, int64_t blocks, int kind, bint shared=False):
        cdef KVBlocks *kv = &self.view
        for name, size in (("key_dim", key_dim), ("value_dim", value_dim)):
            if not 1 <= size <= DL_HEAD_MAX:
                raise ValueError(f"{name} is {size}, expected 1 to {DL_HEAD_MAX}")
        if not 16 <= positions <= DL_KV_BLOCK or positions % 16 or blocks < 1:
            raise ValueError(f"a KV cache cannot have {blocks} blocks of {positions} positions")
        if kind not in (dl_type_f32, dl_type_f16, dl_type_q80):
            raise ValueError(f"a KV cache cannot have type {kind}")
        if shared and value_dim > key_dim:
            raise ValueError(f"value_dim is {value_dim}, expected at most {key_dim}")
        kv.positions, kv.layers, kv.kv_heads, kv.type = positions, layers, kv_heads, kind
        kv.size, kv.padded = key_dim, (key_dim + 15) // 16 * 16
        kv.value_size, kv.value_padded = value_dim, (value_dim + 15) // 16 * 16
        kv.shared = shared
        whole = shared or kind == dl_type_q80
        kv.keys_bytes = dl_kv_bytes(kind, positions, kv.padded if whole else kv.size)
        kv.head_bytes = kv.keys_bytes
        if not shared:
            kv.head_bytes += dl_kv_bytes(kind, positions, kv.value_padded)
        self.blocks, self.block_bytes = blocks, layers * kv_heads * kv.head_bytes
        self.memory = Memory(blocks * self.block_bytes)
        kv.data = self.memory.data


def block_positions(int64_t max_positions):
    """Positions of a block if sequences have up to max_positions."""
    return min(DL_KV_BLOCK, (max_positions + 15) // 16 * 16)


cdef const dl_attention *attention_kernels() noexcept nogil:
    return dl_attention_of(dl_isa())


cdef void kv_put(const KVBlocks *kv, const dl_attention *f, int64_t block, int64_t layer,
                 int64_t kv_head, int64_t position, const float *key,
                 const float *value) noexcept nogil:
    cdef char *keys = kv_keys(kv, block, layer, kv_head)
    cdef char *values = kv_values(kv, block, layer, kv_head)
    cdef int64_t at = position % kv.positions
    if kv.type == dl_type_q80:
        f.put_q80(key, <int> kv.size, <int> at, False, keys)
        if not kv.shared:
            f.put_q80(value, <int> kv.value_size, <int> at, True, values)
    elif kv.shared:
        _put_row(kv, f, key, kv.size, kv.padded, at, keys)
    else:
        _put_key(kv, f, key, at, keys)
        _put_row(kv, f, value, kv.value_size, kv.value_padded, at, values)


cdef inline void _put_key(const KVBlocks *kv, const dl_attention *f, const float *key, int64_t at,
                          char *keys) noexcept nogil:
    """Put the elements of a key 16 places from each other, between those of 15 other positions."""
    cdef int64_t i = at // 16 * 16 * kv.size + at % 16, d
    cdef float row[DL_HEAD_MAX]
    cdef uint16_t halves[DL_HEAD_MAX]
    if kv.type == dl_type_f32:
        for d in range(kv.size):
            (<float *> keys)[i + 16 * d] = key[d]
        return
    memcpy(row, key, kv.size * sizeof(float))
    for d in range(kv.size, kv.padded):
        row[d] = 0
    f.to_half(row, <int> kv.padded, halves)
    for d in range(kv.size):
        (<uint16_t *> keys)[i + 16 * d] = halves[d]


cdef inline void _put_row(const KVBlocks *kv, const dl_attention *f, const float *x, int64_t size,
                          int64_t padded, int64_t at, char *rows) noexcept nogil:
    """Put x[size], and zeros up to padded, into row `at`."""
    cdef float row[DL_HEAD_MAX]
    cdef int64_t d
    memcpy(row, x, size * sizeof(float))
    for d in range(size, padded):
        row[d] = 0
    if kv.type == dl_type_f32:
        memcpy(rows + at * padded * 4, row, padded * 4)
    else:
        f.to_half(row, <int> padded, <uint16_t *> rows + at * padded)
