/* The matmul tile: 16 rows of a packed matrix times n tokens.
 *
 * Packed matrix: rows in groups of 16, one group after another, `stride` bytes
 * apart; rows beyond the last are zero. A SIMD lane is a row, so no sum ever
 * crosses lanes and a row's order of summation is the same for every n.
 *   Q40  K/32 blocks: 16 fp16 scales, then 4 x 16 x 4 bytes; byte [j][r][i] holds the weights
 *        4j+i (low nibble) and 16+4j+i (high nibble) of row r
 *   Q80  K/32 blocks: 16 fp16 scales, then 8 x 16 x 4 int8; [j][r][i] is weight 4j+i of row r
 *   F16, F32  [K][16]
 * So a matrix is read as one stream from its first byte to its last.
 *
 * Quantised activations of n tokens, blocks of 32: q[K/32][8][n][4] int8,
 * d[K/32][n] scales, s[K/32][n] = -8 * sum of the block (removes the nibbles' offset).
 * Float activations: x[n][ldx].
 *
 * The k columns are cut into segments. out[n][16] = sums of segments, in column order each,
 * added as their `adds` say, the tree of dllama/graph/sum_tree.py:
 *   acc = fma(w_scale, d * (float)integer_dot, acc)        per block
 *   acc[k & 1] = fma(w, x, acc[k & 1]), then acc[0] + acc[1]   for floats
 */
#ifndef DL_TILE_H
#define DL_TILE_H

#include <math.h>
#include "half.h"
#include "isa.h"

/* Bytes of the scales before the words of a block, and of whole blocks of 16 rows. */
enum { DL_SCALES = 32, DL_Q40_BLOCK = DL_SCALES + 256, DL_Q80_BLOCK = DL_SCALES + 512 };

enum { DL_F32 = 0, DL_F16 = 1, DL_Q40 = 2, DL_Q80 = 3 };

/* Most tokens a tile takes, quantised and float. */
enum { DL_TILE_TOKENS = 8, DL_TILE_FLOATS = 4 };

/* Sums that wait to be added: the depth of the tree of segments. */
enum { DL_SUMS = 8 };

/* Columns (whole blocks of quantised weights); adds: how many sums that wait are then added. */
typedef struct { int32_t columns, adds; } dl_segment;

typedef struct {
    const uint8_t *w;   /* one packed group, from its first column of the sum */
    const int8_t *q;
    const float *d;
    const int32_t *s;
    const float *x;
    int64_t ldx;
    const dl_segment *order;
    int segments;
    float *out;
} dl_tile;

typedef void (*dl_tile_fn)(const dl_tile *, int n);

/* Bytes of k columns of a packed group of 16 rows. */
DL_INLINE int64_t dl_group_bytes(int type, int64_t k)
{
    return type == DL_Q40 ? k / 32 * DL_Q40_BLOCK : type == DL_Q80 ? k / 32 * DL_Q80_BLOCK
         : type == DL_F16 ? k * 32 : k * 64;
}

/* The same padded to a cache line: the distance of groups. */
DL_INLINE int64_t dl_group_stride(int type, int64_t k)
{
    return (dl_group_bytes(type, k) + 63) / 64 * 64;
}

/* Row r (0..15) of a group from a row of the model file. */
static __attribute__((unused)) void dl_pack_row(int type, int64_t k, int r, const uint8_t *src, uint8_t *group)
{
    int64_t nb = k / 32;
    int words = type == DL_Q40 ? 4 : 8;
    if (type == DL_F32) {
        for (int64_t i = 0; i < k; i++) memcpy(group + (i * 16 + r) * 4, src + i * 4, 4);
        return;
    }
    if (type == DL_F16) {
        for (int64_t i = 0; i < k; i++) memcpy(group + (i * 16 + r) * 2, src + i * 2, 2);
        return;
    }
    for (int64_t b = 0; b < nb; b++, src += 2 + words * 4, group += DL_SCALES + words * 64) {
        memcpy(group + r * 2, src, 2);
        for (int j = 0; j < words; j++)
            memcpy(group + DL_SCALES + (j * 16 + r) * 4, src + 2 + 4 * j, 4);
    }
}

#endif
