/* The table of weight types: how the numbers of a tensor are stored.
 *
 * DL_WEIGHT_TYPES(X) calls X(id, name, block, bytes, header, packed, form) with
 *   id      the number of the type in model files and messages
 *   name    suffix of dl_type_NAME, which is the id, and of the functions below
 *   block   numbers in a block of a file; a row of a tensor is a whole number of blocks
 *   bytes   bytes of such a block; blocks are those of ggml's type of the same name
 *   header  bytes of a panel for every 256 columns, or 0; a panel is 16 packed rows (simd/tile.h)
 *   packed  bytes of a panel for every 32 columns; for every column, if blocks have one number
 *   form    what its matmul computes:
 *           floats    weights times float activations; the other forms read activations in Q80
 *           blocks    tiles of its own in every simd/tile_ISA.h
 *           scaled    scale * q                       q: signed bytes
 *           offset    scale * q + min                 q: 0 to 31
 *           halves    scale * sub[h] * (q - 32)       q: 0 to 63, h: the half of 32 columns
 *           halves_offset  scale * sub[h] * q + min * sub_min[h]    q: 0 to 31
 *
 * Each type has these functions:
 *   dl_encode_NAME_ISA   simd/quants.inc.h, if DL_ENCODED_TYPES lists it
 *   floats, blocks:      dl_decode_NAME_ISA in simd/quants.inc.h, dl_pack_NAME in simd/tile.h,
 *                        dl_tile_NAME_ISA in simd/tile_float.inc.h or simd/tile_ISA.h
 *   other forms:         dl_read_NAME and dl_pack_NAME in simd/pieces.h,
 *                        dl_words_NAME_ISA in simd/words.inc.h
 *
 * dllama/model/weight_types.py mirrors the table; a test compares the two.
 */
#ifndef DL_TYPES_H
#define DL_TYPES_H

#include <stdint.h>

#define DL_FLOAT_TYPES(X)                         \
    X(0, f32, 1, 4, 0, 64, floats)                \
    X(1, f16, 1, 2, 0, 32, floats)                \
    X(4, bf16, 1, 2, 0, 32, floats)

#define DL_BLOCK_TYPES(X)                         \
    X(2, q40, 32, 18, 0, 288, blocks)             \
    X(3, q80, 32, 34, 0, 544, blocks)

#define DL_WORD_TYPES(X)                          \
    X(5, q41, 32, 20, 0, 320, offset)             \
    X(6, q50, 32, 22, 0, 352, offset)             \
    X(7, q51, 32, 24, 0, 384, offset)             \
    X(8, q2k, 256, 84, 64, 160, halves_offset)    \
    X(9, q3k, 256, 110, 32, 216, halves_offset)          \
    X(10, q4k, 256, 144, 64, 280, offset)         \
    X(11, q5k, 256, 176, 64, 344, offset)         \
    X(12, q6k, 256, 210, 32, 416, halves)         \
    X(13, iq4nl, 32, 18, 0, 288, scaled)          \
    X(14, iq4xs, 256, 136, 32, 272, scaled)       \
    X(15, mxfp4, 32, 17, 0, 272, scaled)

#define DL_WEIGHT_TYPES(X) DL_FLOAT_TYPES(X) DL_BLOCK_TYPES(X) DL_WORD_TYPES(X)

/* Types that numbers can be converted to. */
#define DL_ENCODED_TYPES(X) X(f32) X(f16) X(bf16) X(q40) X(q80)

enum { DL_SUPER_BLOCK = 256 };

enum { dl_form_floats, dl_form_blocks, dl_form_scaled, dl_form_offset, dl_form_halves, dl_form_halves_offset };

/* Constants of type NAME, for code that is compiled for one type. */
#define DL_TYPE_CONSTANTS(id, name, block, bytes, header, packed, form)              \
    dl_type_##name = id, dl_block_##name = block, dl_bytes_##name = bytes,           \
    dl_header_##name = header, dl_packed_##name = packed,
enum { DL_WEIGHT_TYPES(DL_TYPE_CONSTANTS) };
#undef DL_TYPE_CONSTANTS

typedef struct {
    int id;
    const char *name;
    int block, bytes, header, packed, form;
    int unit;      /* columns that a node can cut a row at multiples of */
    int quantised; /* its matmul reads Q80 blocks */
} dl_weight_type;

/* The row of a type; NULL if there is none. */
static inline const dl_weight_type *dl_weight_type_of(int id)
{
#define DL_TYPE_ROW(id, name, block, bytes, header, packed, form)                              \
    [id] = {id, #name, block, bytes, header, packed, dl_form_##form, (block) > 1 ? 32 : 1,     \
            dl_form_##form != dl_form_floats},
    static const dl_weight_type rows[] = {DL_WEIGHT_TYPES(DL_TYPE_ROW)};
#undef DL_TYPE_ROW
    return id >= 0 && id < (int)(sizeof rows / sizeof *rows) ? &rows[id] : 0;
}

/* Bytes of n numbers of a known type in a file; n is whole blocks. Sizes are constants in each
 * case, so there is no division at run time. */
static inline int64_t dl_type_bytes(int type, int64_t n)
{
#define DL_TYPE_BYTES(id, name, block, bytes, header, packed, form) case id: return n / block * bytes;
    switch (type) { DL_WEIGHT_TYPES(DL_TYPE_BYTES) }
#undef DL_TYPE_BYTES
    return 0;
}

/* Bytes of the headers of a panel of n columns, of which the first is column `skip` of a
 * super-block. */
static inline int64_t dl_panel_headers(int type, int64_t skip, int64_t n)
{
    return (skip + n + DL_SUPER_BLOCK - 1) / DL_SUPER_BLOCK * dl_weight_type_of(type)->header;
}

/* Bytes of that panel. */
static inline int64_t dl_panel_bytes(int type, int64_t skip, int64_t n)
{
    const dl_weight_type *row = dl_weight_type_of(type);
    return dl_panel_headers(type, skip, n) + n / row->unit * row->packed;
}

#endif
