/* Quantised tiles with AVX-VNNI: vpdpbusd adds four products of unsigned weights and signed
 * activations to an int32, 8 rows at once. */
#ifndef DL_TILE_AVXVNNI_H
#define DL_TILE_AVXVNNI_H

#include "tile_blocks.h"

/* Tokens whose sums fit into registers next to the weights. */
enum { DL_AVXVNNI_TOKENS = 4 };

DL_INLINE __m256i dl_x4_avxvnni(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

DL_INLINE __m256 dl_scaled_avxvnni(__m256i dot, float d, __m256 scale, __m256 acc)
{
    __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(d));
    return _mm256_fmadd_ps(t, scale, acc);
}

/* The empty asm keeps the compiler from turning the additions into trees that spill. */
DL_INLINE __m256i dl_dot_avxvnni(__m256i sum, __m256i w, __m256i x)
{
    sum = _mm256_dpbusd_avx_epi32(sum, w, x);
    __asm__("" : "+x"(sum));
    return sum;
}

/* Weights of word j of 8 rows as unsigned bytes; h: 0 for rows 0 to 7, 1 for rows 8 to 15. Q80
 * flips the sign bits, so that w + 128 is unsigned; the sum starts at s << 4 = -128 * sum of x. */
DL_INLINE __m256i dl_weights_q40_avxvnni(const uint8_t *w, const int j, const int h)
{
    __m256i pairs = _mm256_loadu_si256((const __m256i *)(w + 64 * (j % 4) + 32 * h));
    if (j >= 4) pairs = _mm256_srli_epi16(pairs, 4);
    return _mm256_and_si256(pairs, _mm256_set1_epi8(15));
}

DL_INLINE __m256i dl_weights_q80_avxvnni(const uint8_t *w, const int j, const int h)
{
    __m256i v = _mm256_loadu_si256((const __m256i *)(w + 64 * j + 32 * h));
    return _mm256_xor_si256(v, _mm256_set1_epi8(-128));
}

#define DL_AVXVNNI_BLOCK(name, shift)                                                        \
    DL_INLINE void dl_tokens_##name##_avxvnni(const dl_block *b, const int n, const int i0,    \
                                            v16_avx2 scale, v16_avx2 *acc)                   \
    {                                                                                        \
        const int m = n - i0 < DL_AVXVNNI_TOKENS ? n - i0 : DL_AVXVNNI_TOKENS;               \
        __m256i p[DL_AVXVNNI_TOKENS], r[DL_AVXVNNI_TOKENS];                                  \
        DL_UNROLL for (int i = 0; i < m; i++)                                                \
            p[i] = r[i] = _mm256_set1_epi32(b->s[i0 + i] * (1 << (shift)));                  \
        DL_UNROLL for (int j = 0; j < 8; j++) {                                              \
            __m256i w0 = dl_weights_##name##_avxvnni(b->w, j, 0);                            \
            __m256i w1 = dl_weights_##name##_avxvnni(b->w, j, 1);                            \
            DL_UNROLL for (int i = 0; i < m; i++) {                                          \
                __m256i x = dl_x4_avxvnni(b->x + (j * n + i0 + i) * 4);                         \
                p[i] = dl_dot_avxvnni(p[i], w0, x);                                          \
                r[i] = dl_dot_avxvnni(r[i], w1, x);                                          \
            }                                                                                \
        }                                                                                    \
        DL_UNROLL for (int i = 0; i < m; i++) {                                              \
            v16_avx2 *a = &acc[i0 + i];                                                      \
            a->a = dl_scaled_avxvnni(p[i], b->d[i0 + i], scale.a, a->a);                        \
            a->b = dl_scaled_avxvnni(r[i], b->d[i0 + i], scale.b, a->b);                        \
        }                                                                                    \
    }                                                                                        \
    DL_INLINE void dl_block_##name##_avxvnni(const dl_block *b, const int n, v16_avx2 *acc)  \
    {                                                                                        \
        v16_avx2 scale = v16_load_half_avx2(b->scales);                                      \
        DL_UNROLL for (int i0 = 0; i0 < n; i0 += DL_AVXVNNI_TOKENS)                          \
            dl_tokens_##name##_avxvnni(b, n, i0, scale, acc);                                  \
    }

DL_AVXVNNI_BLOCK(q40, 0)
DL_AVXVNNI_BLOCK(q80, 4)
DL_BLOCK_TILE(dl_tile_q40, dl_block_q40_avxvnni, dl_packed_q40, DL_PER_TOKEN, DL_VFN(dl_put_sums))
DL_BLOCK_TILE(dl_tile_q80, dl_block_q80_avxvnni, dl_packed_q80, DL_PER_TOKEN, DL_VFN(dl_put_sums))
DL_SPECIALISE(dl_tile_q40)
DL_SPECIALISE(dl_tile_q80)
#undef DL_AVXVNNI_BLOCK
#endif
