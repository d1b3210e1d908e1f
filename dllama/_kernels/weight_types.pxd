# The table of weight types, and conversion between floats and stored numbers (types.h).

from libc.stdint cimport int64_t, uint8_t


cdef extern from "types.h" nogil:
    enum:
        dl_type_f32
        dl_type_f16
        dl_type_q80
        dl_block_q80
    ctypedef struct dl_weight_type:
        int id
        const char *name
        int block
        int bytes
        int header
        int packed
        int form
        int unit
        int quantised
    const dl_weight_type *dl_weight_type_of(int id)  # NULL for an unknown type
    int64_t dl_type_bytes(int type, int64_t n)
    int64_t dl_panel_headers(int type, int64_t skip, int64_t n)

cdef extern from "simd/quants.h" nogil:
    enum:
        DL_SRC_F32
        DL_SRC_F16
        DL_SRC_BF16
    ctypedef struct dl_quants:
        int (*encode)(const void *src, int src_type, int64_t n, int type, uint8_t *dst) noexcept nogil
        void (*decode)(const uint8_t *src, int type, int64_t n, float *dst) noexcept nogil
    const dl_quants *dl_quants_of(int isa)
    int dl_type_is_encoded(int type)


# The row of a type; ValueError for an unknown one.
cdef const dl_weight_type *known(int weight_type) except NULL
