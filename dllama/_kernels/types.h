/* The table of weight types: how the numbers of a tensor are stored.
 *
 * DL_WEIGHT_TYPES(X) calls X(id, name, block, bytes, packed, input) with
 *   id      the number of the type in model files and messages
 *   name    suffix of dl_type_NAME, which is the id, and of the functions below
 *   block   numbers in a block; a row of a tensor is a whole number of blocks
 *   bytes   bytes of a block in a file
 *   packed  bytes of a block of a panel, which is 16 packed rows (simd/tile.h)
 *   input   what its matmul reads: `floats`, or `blocks` of Q80
 *
 * Each type has these functions:
 *   dl_encode_NAME_ISA, dl_decode_NAME_ISA   simd/quants.inc.h
 *   dl_pack_NAME                             simd/tile.h
 *   dl_tile_NAME_ISA                         simd/tile_float.inc.h for floats, simd/tile_ISA.h
 *
 * dllama/model/weight_types.py mirrors the table; a test compares the two.
 */
#ifndef DL_TYPES_H
#define DL_TYPES_H

#include <stdint.h>

#define DL_WEIGHT_TYPES(X)          \
    X(0, f32, 1, 4, 64, floats)     \
    X(1, f16, 1, 2, 32, floats)     \
    X(2, q40, 32, 18, 288, blocks)  \
    X(3, q80, 32, 34, 544, blocks)

/* Values of `input`. */
enum { dl_input_floats = 0, dl_input_blocks = 1 };

/* Constants of type NAME, for code that is compiled for one type. */
#define DL_TYPE_CONSTANTS(id, name, block, bytes, packed, input) \
    dl_type_##name = id, dl_block_##name = block, dl_bytes_##name = bytes, dl_packed_##name = packed,
enum { DL_WEIGHT_TYPES(DL_TYPE_CONSTANTS) };
#undef DL_TYPE_CONSTANTS

typedef struct {
    int id;
    const char *name;
    int block, bytes, packed;
    int quantised; /* its matmul reads Q80 blocks */
} dl_weight_type;

/* The rows of the table, then a row of zeros. */
static inline const dl_weight_type *dl_weight_types(void)
{
#define DL_TYPE_ROW(id, name, block, bytes, packed, input) \
    {id, #name, block, bytes, packed, dl_input_##input},
    static const dl_weight_type rows[] = {DL_WEIGHT_TYPES(DL_TYPE_ROW){0, 0, 0, 0, 0, 0}};
#undef DL_TYPE_ROW
    return rows;
}

/* The row of a type; NULL if there is none. */
static inline const dl_weight_type *dl_weight_type_of(int id)
{
    for (const dl_weight_type *row = dl_weight_types(); row->name; row++)
        if (row->id == id) return row;
    return 0;
}

/* Bytes of n numbers of a known type in a file; n is whole blocks. Sizes are constants in each
 * case, so there is no division at run time. */
static inline int64_t dl_type_bytes(int type, int64_t n)
{
#define DL_TYPE_BYTES(id, name, block, bytes, packed, input) case id: return n / block * bytes;
    switch (type) { DL_WEIGHT_TYPES(DL_TYPE_BYTES) }
#undef DL_TYPE_BYTES
    return 0;
}

/* Bytes of n columns of a panel. */
static inline int64_t dl_panel_bytes(int type, int64_t n)
{
#define DL_TYPE_BYTES(id, name, block, bytes, packed, input) case id: return n / block * packed;
    switch (type) { DL_WEIGHT_TYPES(DL_TYPE_BYTES) }
#undef DL_TYPE_BYTES
    return 0;
}

#endif
