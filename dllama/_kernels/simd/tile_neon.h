/* Quantised tiles with plain NEON: smull and smlal add products in 16 bits.
 *
 * Q40: a lane of 16 bits adds 8 products of at most 15 * 127, and a pairwise addition doubles that,
 * 30480 at most. Q80: |w| <= 128 times |x| <= 127, two at a time, 32512 at most.
 */
#ifndef DL_TILE_NEON_H
#define DL_TILE_NEON_H

#include "tile_blocks.h"

/* Tokens and quads (4 rows) whose 16-bit sums fit into registers together. */
enum { DL_NEON_TOKENS = 4, DL_NEON_QUADS = 2 };

/* The compiler moves no load past this, so it does not load more than its registers can hold. */
#define DL_FENCE() __asm__ volatile("" ::: "memory")

/* Sums of the products of 4 rows: rows 0 and 1, rows 2 and 3, four 16-bit lanes each. */
typedef struct { int16x8_t a, b; } dl_sum16;

/* A word of four bytes in all lanes. The words of a block are [8][n]. */
DL_INLINE int8x16_t dl_word_neon(const int8_t *x, int word)
{
    int32_t four;
    memcpy(&four, x + 4 * word, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/* It is assembly so that the compiler keeps the order of the sums and their registers. */
DL_INLINE void dl_mla_neon(dl_sum16 *sum, int8x16_t w, int8x16_t x)
{
    __asm__("smlal %0.8h, %1.8b, %2.8b" : "+w"(sum->a) : "w"(w), "w"(x));
    __asm__("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(sum->b) : "w"(w), "w"(x));
}

DL_INLINE void dl_mul_neon(dl_sum16 *sum, int8x16_t w, int8x16_t x)
{
    sum->a = vmull_s8(vget_low_s8(w), vget_low_s8(x));
    sum->b = vmull_high_s8(w, x);
}

DL_INLINE int32x4_t dl_pairs_neon(int32x4_t sum, int16x8_t x)
{
    __asm__("sadalp %0.4s, %1.8h" : "+w"(sum) : "w"(x));
    return sum;
}

/* acc += scale * (d * dot) for 4 rows. */
DL_INLINE float32x4_t dl_scaled_neon(int32x4_t dot, float d, const uint16_t *scales, float32x4_t acc)
{
    float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales)));
    return vfmaq_f32(acc, vmulq_n_f32(vcvtq_f32_s32(dot), d), scale);
}

/* Adds a block for two quads from g on and up to DL_NEON_TOKENS tokens from i0 on. */
DL_INLINE void dl_two_quads_q40_neon(const dl_block *b, const int n, const int g, const int i0, v16_neon *acc)
{
    const int m = n - i0 < DL_NEON_TOKENS ? n - i0 : DL_NEON_TOKENS;
    dl_sum16 sum[DL_NEON_TOKENS][DL_NEON_QUADS];
    DL_UNROLL for (int j = 0; j < 4; j++) {
        int8x16_t lo[DL_NEON_QUADS], hi[DL_NEON_QUADS];
        DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) {
            uint8x16_t pairs = vld1q_u8(b->w + 64 * j + 16 * (g + h));
            lo[h] = vreinterpretq_s8_u8(vandq_u8(pairs, vdupq_n_u8(15)));
            hi[h] = vreinterpretq_s8_u8(vshrq_n_u8(pairs, 4));
        }
        DL_UNROLL for (int i = 0; i < m; i++) {
            int8x16_t xl = dl_word_neon(b->x, j * n + i0 + i);
            int8x16_t xh = dl_word_neon(b->x, (j + 4) * n + i0 + i);
            DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) {
                if (j == 0) dl_mul_neon(&sum[i][h], lo[h], xl);
                else dl_mla_neon(&sum[i][h], lo[h], xl);
                dl_mla_neon(&sum[i][h], hi[h], xh);
            }
        }
        if (n > 1) DL_FENCE();
    }
    DL_UNROLL for (int i = 0; i < m; i++)
        DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) {
            int16x8_t rows = vpaddq_s16(sum[i][h].a, sum[i][h].b);
            int32x4_t dot = vpadalq_s16(vdupq_n_s32(b->s[i0 + i]), rows);
            float32x4_t *a = &acc[i0 + i].q[g + h];
            *a = dl_scaled_neon(dot, b->d[i0 + i], b->scales + 4 * (g + h), *a);
        }
}

/* The same for Q80. */
DL_INLINE void dl_two_quads_q80_neon(const dl_block *b, const int n, const int g, const int i0, v16_neon *acc)
{
    const int m = n - i0 < DL_NEON_TOKENS ? n - i0 : DL_NEON_TOKENS;
    int32x4_t a[DL_NEON_TOKENS][DL_NEON_QUADS], c[DL_NEON_TOKENS][DL_NEON_QUADS];
    DL_UNROLL for (int i = 0; i < m; i++)
        DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) a[i][h] = c[i][h] = vdupq_n_s32(0);
    DL_UNROLL for (int j = 0; j < 8; j += 2) {
        int8x16_t v0[DL_NEON_QUADS], v1[DL_NEON_QUADS];
        DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) {
            v0[h] = vld1q_s8((const int8_t *)b->w + 64 * j + 16 * (g + h));
            v1[h] = vld1q_s8((const int8_t *)b->w + 64 * j + 64 + 16 * (g + h));
        }
        DL_UNROLL for (int i = 0; i < m; i++) {
            int8x16_t x0 = dl_word_neon(b->x, j * n + i0 + i);
            int8x16_t x1 = dl_word_neon(b->x, (j + 1) * n + i0 + i);
            DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) {
                dl_sum16 two;
                dl_mul_neon(&two, v0[h], x0);
                dl_mla_neon(&two, v1[h], x1);
                a[i][h] = dl_pairs_neon(a[i][h], two.a);
                c[i][h] = dl_pairs_neon(c[i][h], two.b);
            }
        }
        if (n > 1) DL_FENCE();
    }
    DL_UNROLL for (int i = 0; i < m; i++)
        DL_UNROLL for (int h = 0; h < DL_NEON_QUADS; h++) {
            float32x4_t *p = &acc[i0 + i].q[g + h];
            int32x4_t dot = vpaddq_s32(a[i][h], c[i][h]);
            *p = dl_scaled_neon(dot, b->d[i0 + i], b->scales + 4 * (g + h), *p);
        }
}

/* For many tokens, the quads are a loop: if it is unrolled, the compiler mixes them and spills. */
#define DL_NEON_BLOCK(name)                                                                 \
    DL_INLINE void dl_quads_##name##_neon(const dl_block *b, const int n, int g, v16_neon *acc) \
    {                                                                                       \
        DL_UNROLL for (int i0 = 0; i0 < n; i0 += DL_NEON_TOKENS) {                          \
            dl_two_quads_##name##_neon(b, n, g, i0, acc);                                        \
            if (n > DL_NEON_TOKENS) DL_FENCE();                                             \
        }                                                                                   \
    }                                                                                       \
    DL_INLINE void dl_block_##name##_neon(const dl_block *b, const int n, v16_neon *acc)    \
    {                                                                                       \
        if (n == 1)                                                                         \
            DL_UNROLL for (int g = 0; g < 4; g += DL_NEON_QUADS)                            \
                dl_quads_##name##_neon(b, n, g, acc);                                       \
        else                                                                                \
            for (int g = 0; g < 4; g += DL_NEON_QUADS)                                      \
                dl_quads_##name##_neon(b, n, dl_opaque(g), acc);                            \
    }

DL_NEON_BLOCK(q40)
DL_NEON_BLOCK(q80)
DL_BLOCK_TILE(dl_tile_q40, dl_block_q40_neon, dl_packed_q40, DL_PER_TOKEN, DL_VFN(dl_put_sums))
DL_BLOCK_TILE(dl_tile_q80, dl_block_q80_neon, dl_packed_q80, DL_PER_TOKEN, DL_VFN(dl_put_sums))
DL_SPECIALISE(dl_tile_q40)
DL_SPECIALISE(dl_tile_q80)
#undef DL_NEON_BLOCK
#endif
