/* Quantised tiles with sdot, which adds four products to each of four 32-bit sums: 4 rows times
 * four bytes of one token, from any lane of a register. */
#ifndef DL_TILE_DOTPROD_H
#define DL_TILE_DOTPROD_H

#include "tile_blocks.h"

/* sum += products of w with lane `lane` of x. It is assembly so that the compiler keeps the order
 * of the sums and their registers, and because clang before 16 only offers the intrinsic if all
 * code is compiled for dotprod. */
DL_INLINE int32x4_t dl_sdot(int32x4_t sum, int8x16_t w, int8x16_t x, const int lane)
{
#define DL_SDOT(i) __asm__("sdot %0.4s, %1.16b, %2.4b[" #i "]" : "+w"(sum) : "w"(w), "w"(x))
    switch (lane) {
    case 0: DL_SDOT(0); break;
    case 1: DL_SDOT(1); break;
    case 2: DL_SDOT(2); break;
    default: DL_SDOT(3); break;
    }
#undef DL_SDOT
    return sum;
}

/* Adds word j of 4 rows times word j of n tokens. x: [8][n] words. */
DL_INLINE void dl_word_dotprod(int32x4_t *dot, int8x16_t w, const int8x16_t *x, const int j, const int n)
{
    DL_UNROLL for (int i = 0; i < n; i++)
        dot[i] = dl_sdot(dot[i], w, x[(j * n + i) / 4], (j * n + i) % 4);
}

/* dot[n] = integer dot products of quad g, which is rows 4g to 4g + 3. */
DL_INLINE void dl_dots_q40_dotprod(const dl_block *b, const int8x16_t *x, const int n, int g, int32x4_t *dot)
{
    DL_UNROLL for (int i = 0; i < n; i++) dot[i] = vdupq_n_s32(b->s[i]);
    DL_UNROLL for (int j = 0; j < 4; j++) {
        uint8x16_t pairs = vld1q_u8(b->w + 64 * j + 16 * g);
        int8x16_t lo = vreinterpretq_s8_u8(vandq_u8(pairs, vdupq_n_u8(15)));
        int8x16_t hi = vreinterpretq_s8_u8(vshrq_n_u8(pairs, 4));
        dl_word_dotprod(dot, lo, x, j, n);
        dl_word_dotprod(dot, hi, x, j + 4, n);
    }
}

DL_INLINE void dl_dots_q80_dotprod(const dl_block *b, const int8x16_t *x, const int n, int g, int32x4_t *dot)
{
    DL_UNROLL for (int i = 0; i < n; i++) dot[i] = vdupq_n_s32(0);
    DL_UNROLL for (int j = 0; j < 8; j++)
        dl_word_dotprod(dot, vld1q_s8((const int8_t *)b->w + 64 * j + 16 * g), x, j, n);
}

/* The words of n tokens fill 2n registers. For many tokens, the quads are a loop: if it is
 * unrolled, the compiler mixes them and spills. */
#define DL_DOTPROD_BLOCK(name)                                                              \
    DL_INLINE void dl_quad_##name##_dotprod(const dl_block *b, const int8x16_t *x, const int n, \
                                            int g, v16_neon *acc)                           \
    {                                                                                       \
        int32x4_t dot[DL_TILE_TOKENS];                                                      \
        dl_dots_##name##_dotprod(b, x, n, g, dot);                                          \
        float32x4_t scale = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(b->scales + 4 * g))); \
        DL_UNROLL for (int i = 0; i < n; i++)                                               \
            acc[i].q[g] = vfmaq_f32(                                                        \
                acc[i].q[g], vmulq_n_f32(vcvtq_f32_s32(dot[i]), b->d[i]), scale);           \
    }                                                                                       \
    DL_INLINE void dl_block_##name##_dotprod(const dl_block *b, const int n, v16_neon *acc) \
    {                                                                                       \
        int8x16_t x[2 * DL_TILE_TOKENS];                                                    \
        DL_UNROLL for (int i = 0; i < 2 * n; i++) x[i] = vld1q_s8(b->x + 16 * i);           \
        if (n <= 2)                                                                         \
            DL_UNROLL for (int g = 0; g < 4; g++) dl_quad_##name##_dotprod(b, x, n, g, acc); \
        else                                                                                \
            for (int g = 0; g < 4; g++) dl_quad_##name##_dotprod(b, x, n, dl_opaque(g), acc); \
    }

DL_DOTPROD_BLOCK(q40)
DL_DOTPROD_BLOCK(q80)
DL_BLOCK_TILE(dl_tile_q40, dl_block_q40_dotprod, dl_packed_q40, DL_PER_TOKEN, DL_VFN(dl_put_sums))
DL_BLOCK_TILE(dl_tile_q80, dl_block_q80_dotprod, dl_packed_q80, DL_PER_TOKEN, DL_VFN(dl_put_sums))
DL_SPECIALISE(dl_tile_q40)
DL_SPECIALISE(dl_tile_q80)
#undef DL_DOTPROD_BLOCK
#endif
