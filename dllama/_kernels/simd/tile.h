/* The matmul tile: one panel of a packed matrix times n tokens.
 *
 * Here a token is a row of the batch, and a row is a row of the matrix. A packed matrix is a
 * sequence of panels of 16 rows, `stride` bytes apart. The last panel is padded with zeros. A SIMD
 * lane is a row, so sums never cross lanes, and the order of summation of a row is the same for
 * every n.
 *   Q40  K/32 blocks: 16 fp16 scales, then 4 x 16 x 4 bytes; byte [j][r][i] holds the weights
 *        4j+i (low nibble) and 16+4j+i (high nibble) of row r
 *   Q80  K/32 blocks: 16 fp16 scales, then 8 x 16 x 4 int8; [j][r][i] is weight 4j+i of row r
 *   F32, F16, BF16  [K][16]
 *   other types: pieces.h
 * So a matrix is read as one stream from the first byte to the last.
 *
 * Quantised activations of n tokens, blocks of 32: q[K/32][8][n][4] int8, d[K/32][n] scales,
 * s[K/32][n] = -8 * sum of the block (removes the nibbles' offset), h[K/32][n] = -8 * sum of its
 * first half. Float activations: x[n][ldx].
 *
 * The columns are cut into segments, whose sums are added as `adds` say (the tree of
 * dllama/graph/sum_tree.py). Within a segment, columns are added in order:
 *   acc = fma(w_scale, d * (float)integer_dot, acc)        per block; words.h for other types
 *   acc[k & 1] = fma(w, x, acc[k & 1]), then acc[0] + acc[1]   for floats
 */
#ifndef DL_TILE_H
#define DL_TILE_H

#include <math.h>
#include "half.h"
#include "isa.h"
#include "pieces.h"
#include "types.h"

/* Bytes of the 16 scales before the words of a quantised block of a panel. */
enum { DL_SCALES = 32 };

/* Most tokens that a tile multiplies at once, for quantised and for float weights. DL_TILE_MOST: most
 * tokens of a tile that unpacks; more than DL_TILE_TOKENS are whole groups of these. */
enum { DL_TILE_TOKENS = 8, DL_TILE_FLOATS = 4, DL_TILE_MOST = 32 };

/* Most sums that wait to be added: the depth of the tree of segments. */
enum { DL_SUMS = 8 };

/* columns: how many, whole blocks of quantised weights. adds: how many of the waiting sums are then
 * added. ends: whether the sum is then written to out; otherwise it waits. */
typedef struct { int32_t columns; int16_t adds, ends; } dl_segment;

typedef struct {
    const uint8_t *w;           /* the panel */
    int64_t skip, headers;      /* as in dl_panel_headers, and what that returns */
    int64_t ahead;              /* dl_ahead of n */
    const int8_t *q;            /* quantised activations */
    const float *d;
    const int32_t *s, *h;
    const float *x;             /* float activations */
    int64_t ldx;                /* columns of x, or of q: from one group of tokens to the next */
    const dl_segment *order;    /* [segments] */
    int segments;
    float *out[DL_TILE_MOST];   /* [n]: sums of 16 floats, out_stride floats apart */
    int64_t out_stride;
    const float *factors;       /* [n]: out += factor * sum; NULL: out = sum */
} dl_tile;

typedef void (*dl_tile_fn)(const dl_tile *, int n);

/* Asks for the bytes that lie `ahead` behind a block at p. */
DL_INLINE void dl_fetch(const uint8_t *p, const int bytes, int64_t ahead)
{
    DL_UNROLL for (int at = 0; at < bytes; at += 64) __builtin_prefetch(p + ahead + at);
}

/* Part j of 8 of the same, between the words of a block: loads wait behind a burst of requests. GCC
 * spreads a burst by itself, Clang does not. */
DL_INLINE void dl_fetch_part(const uint8_t *p, const int bytes, int64_t ahead, const int j)
{
    const int lines = (bytes + 63) / 64;
    DL_UNROLL for (int at = lines * j / 8; at < lines * (j + 1) / 8; at++) __builtin_prefetch(p + ahead + 64 * at);
}

/* Bytes from one panel of k columns to the next, rounded up to cache lines. */
DL_INLINE int64_t dl_panel_stride(int type, int64_t skip, int64_t k)
{
    return (dl_panel_bytes(type, skip, k) + 63) / 64 * 64;
}

/* dl_pack_NAME: packs k columns of a row of a model file as row r (0..15) of a panel. `skip` columns
 * of the first block come before them. Returns not 0 if a number or a scale is not finite. */
#define DL_PACK_FLOATS(id, name, block, bytes, header, packed, form)                                 \
    DL_INLINE int dl_pack_##name(int64_t skip, int64_t k, int r, const uint8_t *src, uint8_t *panel) \
    {                                                                                                \
        const uint16_t exponent = (id) == dl_type_f16 ? 0x7c00 : 0x7f80;                             \
        int bad = 0;                                                                                 \
        (void)skip;                                                                                  \
        for (int64_t i = 0; i < k; i++, src += (bytes)) {                                            \
            bad |= (dl_u16_at(src + (bytes) - 2) & exponent) == exponent;                            \
            memcpy(panel + (i * 16 + r) * (bytes), src, bytes);                                      \
        }                                                                                            \
        return bad;                                                                                  \
    }

/* For blocks of a scale, then words of four bytes. */
#define DL_PACK_BLOCKS(id, name, block, bytes, header, packed, form)                                 \
    DL_INLINE int dl_pack_##name(int64_t skip, int64_t k, int r, const uint8_t *src, uint8_t *panel) \
    {                                                                                                \
        int bad = 0;                                                                                 \
        (void)skip;                                                                                  \
        for (int64_t b = k / (block); b > 0; b--) {                                                  \
            bad |= (dl_u16_at(src) & 0x7c00) == 0x7c00;                                              \
            memcpy(panel + r * 2, src, 2);                                                           \
            for (int j = 0; j < ((bytes) - 2) / 4; j++)                                              \
                memcpy(panel + DL_SCALES + (j * 16 + r) * 4, src + 2 + 4 * j, 4);                    \
            src += (bytes), panel += (packed);                                                       \
        }                                                                                            \
        return bad;                                                                                  \
    }

DL_FLOAT_TYPES(DL_PACK_FLOATS)
DL_BLOCK_TYPES(DL_PACK_BLOCKS)
#undef DL_PACK_FLOATS
#undef DL_PACK_BLOCKS

/* Packs a row of any known type. */
static __attribute__((unused)) int dl_pack_row(int type, int64_t skip, int64_t k, int r, const uint8_t *src,
                                               uint8_t *panel)
{
#define DL_PACK_CASE(id, name, block, bytes, header, packed, form) \
    case id: return dl_pack_##name(skip, k, r, src, panel);
    switch (type) { DL_WEIGHT_TYPES(DL_PACK_CASE) }
#undef DL_PACK_CASE
    return 0;
}

#endif
