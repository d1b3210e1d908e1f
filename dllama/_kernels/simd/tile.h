/* The matmul tile: one panel of a packed matrix times n tokens.
 *
 * Here a token is a row of the batch, and a row is a row of the matrix. A packed matrix is a
 * sequence of panels of 16 rows, `stride` bytes apart. The last panel is padded with zeros. A SIMD
 * lane is a row, so sums never cross lanes, and the order of summation of a row is the same for
 * every n.
 *   Q40  K/32 blocks: 16 fp16 scales, then 4 x 16 x 4 bytes; byte [j][r][i] holds the weights
 *        4j+i (low nibble) and 16+4j+i (high nibble) of row r
 *   Q80  K/32 blocks: 16 fp16 scales, then 8 x 16 x 4 int8; [j][r][i] is weight 4j+i of row r
 *   F16, F32  [K][16]
 * So a matrix is read as one stream from the first byte to the last.
 *
 * Quantised activations of n tokens, blocks of 32: q[K/32][8][n][4] int8,
 * d[K/32][n] scales, s[K/32][n] = -8 * sum of the block (removes the nibbles' offset).
 * Float activations: x[n][ldx].
 *
 * The columns are cut into segments, whose sums are added as `adds` say (the tree of
 * dllama/graph/sum_tree.py). Within a segment, columns are added in order:
 *   acc = fma(w_scale, d * (float)integer_dot, acc)        per block
 *   acc[k & 1] = fma(w, x, acc[k & 1]), then acc[0] + acc[1]   for floats
 */
#ifndef DL_TILE_H
#define DL_TILE_H

#include <math.h>
#include "half.h"
#include "isa.h"
#include "types.h"

/* Bytes of the 16 scales before the words of a quantised block of a panel. */
enum { DL_SCALES = 32 };

/* Most tokens of a tile, for quantised and for float weights. */
enum { DL_TILE_TOKENS = 8, DL_TILE_FLOATS = 4 };

/* Most sums that wait to be added: the depth of the tree of segments. */
enum { DL_SUMS = 8 };

/* columns: how many, whole blocks of quantised weights. adds: how many of the waiting sums are then
 * added. ends: whether the sum is then written to out; otherwise it waits. */
typedef struct { int32_t columns; int16_t adds, ends; } dl_segment;

typedef struct {
    const uint8_t *w;           /* the panel */
    const int8_t *q;            /* quantised activations */
    const float *d;
    const int32_t *s;
    const float *x;             /* float activations */
    int64_t ldx;
    const dl_segment *order;    /* [segments] */
    int segments;
    float *out[DL_TILE_TOKENS]; /* [n]: sums of 16 floats, out_stride floats apart */
    int64_t out_stride;
    const float *factors;       /* [n]: out += factor * sum; NULL: out = sum */
} dl_tile;

typedef void (*dl_tile_fn)(const dl_tile *, int n);

/* Bytes from one panel of k columns to the next, rounded up to cache lines. */
DL_INLINE int64_t dl_panel_stride(int type, int64_t k)
{
    return (dl_panel_bytes(type, k) + 63) / 64 * 64;
}

/* dl_pack_TYPE: packs a row of a model file as row r (0..15) of a panel of k columns. */
#define DL_PACK_FLOATS(name, width)                                                         \
    DL_INLINE void dl_pack_##name(int64_t k, int r, const uint8_t *src, uint8_t *panel)     \
    {                                                                                       \
        for (int64_t i = 0; i < k; i++)                                                     \
            memcpy(panel + (i * 16 + r) * (width), src + i * (width), width);               \
    }

/* For blocks of a scale, then words of four bytes. */
#define DL_PACK_WORDS(name)                                                                 \
    DL_INLINE void dl_pack_##name(int64_t k, int r, const uint8_t *src, uint8_t *panel)     \
    {                                                                                       \
        for (int64_t b = k / dl_block_##name; b > 0; b--) {                                 \
            memcpy(panel + r * 2, src, 2);                                                  \
            for (int j = 0; j < (dl_bytes_##name - 2) / 4; j++)                             \
                memcpy(panel + DL_SCALES + (j * 16 + r) * 4, src + 2 + 4 * j, 4);           \
            src += dl_bytes_##name, panel += dl_packed_##name;                              \
        }                                                                                   \
    }

DL_PACK_FLOATS(f32, dl_bytes_f32)
DL_PACK_FLOATS(f16, dl_bytes_f16)
DL_PACK_WORDS(q40)
DL_PACK_WORDS(q80)
#undef DL_PACK_FLOATS
#undef DL_PACK_WORDS

/* Packs a row of any known type. */
static __attribute__((unused)) void dl_pack_row(int type, int64_t k, int r, const uint8_t *src, uint8_t *panel)
{
#define DL_PACK_CASE(id, name, block, bytes, packed, input) \
    case id: dl_pack_##name(k, r, src, panel); break;
    switch (type) { DL_WEIGHT_TYPES(DL_PACK_CASE) }
#undef DL_PACK_CASE
}

#endif
