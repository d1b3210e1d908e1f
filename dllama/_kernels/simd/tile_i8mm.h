/* Quantised tiles with smmla: 2 rows times 2 tokens times eight bytes.
 *
 * zip puts words j and j + 1 of two rows into one register, and those of two tokens into another.
 * So sums are [row][token], and so are the float accumulators until the end of the tile. If the
 * number of tokens is odd, the last one is multiplied twice.
 */
#ifndef DL_TILE_I8MM_H
#define DL_TILE_I8MM_H

#include "tile_blocks.h"

#define DL_PAIRS(n) (((n) + 1) / 2)
/* 16 rows x 2 tokens fill two vectors: pair p has rows 0 to 7 in acc[2p], 8 to 15 in acc[2p +
 * 1]. */
#define DL_PAIR_VECTORS(n) (2 * DL_PAIRS(n))

DL_INLINE int32x4_t dl_smmla(int32x4_t sum, int8x16_t w, int8x16_t x)
{
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
    return sum;
}

DL_INLINE int8x16_t dl_zip1_i8mm(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

DL_INLINE int8x16_t dl_zip2_i8mm(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

/* 4-byte items of tokens 2p and 2p + 1, or that of the last token twice; p points to token 2p. */
DL_INLINE uint32x2_t dl_two_i8mm(const void *p, const int both)
{
    uint32_t items[2];
    memcpy(items, p, both ? 8 : 4);
    if (!both) return vdup_n_u32(items[0]);
    return vld1_u32(items);
}

DL_INLINE int32x4_t dl_twice_i8mm(uint32x2_t two)
{
    return vreinterpretq_s32_u32(vcombine_u32(two, two));
}

/* x[pair][k] = words 2k and 2k + 1 of both tokens of a pair. */
DL_INLINE void dl_tokens_i8mm(const dl_block *b, const int n, int8x16_t x[][4])
{
    DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++)
        DL_UNROLL for (int k = 0; k < 4; k++) {
            uint32x2_t even = dl_two_i8mm(b->x + (2 * k * n + 2 * p) * 4, 2 * p + 1 < n);
            uint32x2_t odd = dl_two_i8mm(b->x + ((2 * k + 1) * n + 2 * p) * 4, 2 * p + 1 < n);
            uint32x2_t none = vdup_n_u32(0);
            uint32x4_t zipped = vzip1q_u32(vcombine_u32(even, none), vcombine_u32(odd, none));
            x[p][k] = vreinterpretq_s8_u32(zipped);
        }
}

/* Adds words 2k and 2k + 1 of rows 2r and 2r + 1 of a quad, times all tokens. */
DL_INLINE void dl_words_i8mm(int32x4_t dot[][2], int8x16_t w, int8x16_t x[][4], const int k, const int r, const int n)
{
    DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++) dot[p][r] = dl_smmla(dot[p][r], w, x[p][k]);
}

/* dot[pair][r] = integer dot products of rows 2r and 2r + 1 of quad g. */
DL_INLINE void dl_dots_q40_i8mm(const dl_block *b, int8x16_t x[][4], const int n, int g, int32x4_t dot[][2])
{
    DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++)
        dot[p][0] = dot[p][1] = dl_twice_i8mm(dl_two_i8mm(b->s + 2 * p, 2 * p + 1 < n));
    DL_UNROLL for (int k = 0; k < 2; k++) {
        int8x16_t even = vld1q_s8((const int8_t *)b->w + 128 * k + 16 * g);
        int8x16_t odd = vld1q_s8((const int8_t *)b->w + 128 * k + 64 + 16 * g);
        DL_UNROLL for (int r = 0; r < 2; r++) {
            uint8x16_t pairs = vreinterpretq_u8_s8(r ? dl_zip2_i8mm(even, odd) : dl_zip1_i8mm(even, odd));
            int8x16_t lo = vreinterpretq_s8_u8(vandq_u8(pairs, vdupq_n_u8(15)));
            int8x16_t hi = vreinterpretq_s8_u8(vshrq_n_u8(pairs, 4));
            dl_words_i8mm(dot, lo, x, k, r, n);
            dl_words_i8mm(dot, hi, x, k + 2, r, n);
        }
    }
}

DL_INLINE void dl_dots_q80_i8mm(const dl_block *b, int8x16_t x[][4], const int n, int g, int32x4_t dot[][2])
{
    DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++) dot[p][0] = dot[p][1] = vdupq_n_s32(0);
    DL_UNROLL for (int k = 0; k < 4; k++) {
        int8x16_t even = vld1q_s8((const int8_t *)b->w + 128 * k + 16 * g);
        int8x16_t odd = vld1q_s8((const int8_t *)b->w + 128 * k + 64 + 16 * g);
        dl_words_i8mm(dot, dl_zip1_i8mm(even, odd), x, k, 0, n);
        dl_words_i8mm(dot, dl_zip2_i8mm(even, odd), x, k, 1, n);
    }
}

#define DL_I8MM_BLOCK(name)                                                                  \
    DL_INLINE void dl_quad_##name##_i8mm(const dl_block *b, int8x16_t x[][4], const int n,   \
                                         int g, v16_neon *acc)                               \
    {                                                                                        \
        int32x4_t dot[DL_TILE_TOKENS / 2][2];                                                \
        dl_dots_##name##_i8mm(b, x, n, g, dot);                                              \
        float32x4_t s = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(b->scales + 4 * g)));     \
        float32x4_t scale[2] = {vzip1q_f32(s, s), vzip2q_f32(s, s)};                         \
        DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++) {                                    \
            float32x4_t d = vreinterpretq_f32_s32(                                           \
                dl_twice_i8mm(dl_two_i8mm(b->d + 2 * p, 2 * p + 1 < n)));                    \
            DL_UNROLL for (int r = 0; r < 2; r++) {                                          \
                float32x4_t *a = &acc[2 * p + (g >> 1)].q[2 * (g & 1) + r];                     \
                *a = vfmaq_f32(*a, vmulq_f32(vcvtq_f32_s32(dot[p][r]), d), scale[r]);        \
            }                                                                                \
        }                                                                                    \
    }                                                                                        \
    DL_INLINE void dl_block_##name##_i8mm(const dl_block *b, const int n, v16_neon *acc)     \
    {                                                                                        \
        int8x16_t x[DL_TILE_TOKENS / 2][4];                                                  \
        dl_tokens_i8mm(b, n, x);                                                             \
        if (n <= 2)                                                                          \
            DL_UNROLL for (int g = 0; g < 4; g++) dl_quad_##name##_i8mm(b, x, n, g, acc);    \
        else                                                                                 \
            for (int g = 0; g < 4; g++) dl_quad_##name##_i8mm(b, x, n, dl_opaque(g), acc);   \
    }

/* Writes sums, which are [pair][row][token], as rows of each token. */
DL_INLINE void dl_put_pairs_i8mm(const dl_tile *t, int index, const v16_neon *acc, const int n)
{
    float pairs[DL_TILE_MOST * 16], rows[2][16];
    for (int v = 0; v < DL_PAIR_VECTORS(n); v++) v16_store_neon(pairs + 16 * v, acc[v]);
    for (int p = 0; p < DL_PAIRS(n); p++) {
        for (int r = 0; r < 16; r += 4) {
            float32x4x2_t two = vld2q_f32(pairs + 32 * p + 2 * r);
            vst1q_f32(rows[0] + r, two.val[0]), vst1q_f32(rows[1] + r, two.val[1]);
        }
        for (int i = 0; i < 2 && 2 * p + i < n; i++)
            dl_put_sum_neon(t, 2 * p + i, index, v16_load_neon(rows[i]));
    }
}

DL_I8MM_BLOCK(q40)
DL_I8MM_BLOCK(q80)
DL_BLOCK_TILE(dl_pairs_q40, dl_block_q40_i8mm, dl_packed_q40, DL_PAIR_VECTORS, dl_put_pairs_i8mm)
DL_BLOCK_TILE(dl_pairs_q80, dl_block_q80_i8mm, dl_packed_q80, DL_PAIR_VECTORS, dl_put_pairs_i8mm)

/* A single token has no partner. */
#define DL_I8MM_TILE(type)                                                                   \
    DL_INLINE void dl_tile_##type##_n_i8mm(const dl_tile *t, const int n)                    \
    {                                                                                        \
        if (n == 1) dl_tile_##type##_n_dotprod(t, 1);                                        \
        else dl_pairs_##type##_n_i8mm(t, n);                                                 \
    }

DL_I8MM_TILE(q40)
DL_I8MM_TILE(q80)
DL_SPECIALISE(dl_tile_q40)
DL_SPECIALISE(dl_tile_q80)
#undef DL_I8MM_BLOCK
#undef DL_I8MM_TILE
#endif
