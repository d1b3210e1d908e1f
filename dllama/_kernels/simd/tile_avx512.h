/* Quantised tiles with AVX-512 VNNI: vpdpbusd adds four products of unsigned weights and signed
 * activations to an int32, 16 rows at once. */
#ifndef DL_TILE_AVX512_H
#define DL_TILE_AVX512_H

DL_INLINE __m512i dl_x4_avx512(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}

DL_INLINE __m512 dl_scaled_avx512(__m512i dot, float d, __m512 scale, __m512 acc)
{
    __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(d));
    return _mm512_fmadd_ps(t, scale, acc);
}

DL_INLINE void dl_unpack_q40_avx512(const uint8_t *w, __m512i *v)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    DL_UNROLL for (int j = 0; j < 4; j++) {
        __m512i pairs = _mm512_loadu_si512(w + 64 * j);
        v[j] = _mm512_and_si512(pairs, nibble);
        v[4 + j] = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), nibble);
    }
}

/* Flips the sign bits, so that w + 128 is unsigned. Sums start at s << 4 = -128 * sum of x, which
 * makes up for it. */
DL_INLINE void dl_unpack_q80_avx512(const uint8_t *w, __m512i *v)
{
    DL_UNROLL for (int j = 0; j < 8; j++)
        v[j] = _mm512_xor_si512(_mm512_loadu_si512(w + 64 * j), _mm512_set1_epi8(-128));
}

#define DL_QUANT_TILE(name, unpack, block_bytes, shift)                                          \
    DL_INLINE void name##_n_avx512(const dl_tile *t, const int n)                                \
    {                                                                                            \
        dl_sums_avx512 sums;                                                                     \
        sums.count = sums.ended = 0;                                                             \
        const uint8_t *w = t->w;                                                                 \
        const int8_t *x = t->q;                                                                  \
        const float *d = t->d;                                                                   \
        const int32_t *s = t->s;                                                                 \
        for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {                  \
            __m512 acc[DL_TILE_TOKENS];                                                          \
            DL_UNROLL for (int i = 0; i < n; i++) acc[i] = _mm512_setzero_ps();                  \
            for (int b = g->columns / 32; b > 0; b--) {                                          \
                __m512i v[8];                                                                    \
                unpack(w + DL_SCALES, v);                                                        \
                dl_fetch(w, block_bytes, t->ahead);                                              \
                __m512 scale = v16_load_half_avx512((const uint16_t *)w);                        \
                DL_UNROLL for (int i = 0; i < n; i++) {                                          \
                    __m512i dot = _mm512_set1_epi32(s[i] * (1 << (shift)));                      \
                    DL_UNROLL for (int j = 0; j < 8; j++)                                        \
                        dot = _mm512_dpbusd_epi32(dot, v[j], dl_x4_avx512(x + (j * n + i) * 4)); \
                    acc[i] = dl_scaled_avx512(dot, d[i], scale, acc[i]);                         \
                }                                                                                \
                w += (block_bytes), x += 32 * n, d += n, s += n;                                 \
            }                                                                                    \
            if (dl_segment_done_avx512(&sums, g, acc, n))                                        \
                dl_put_sums_avx512(t, sums.ended++, acc, n);                                     \
        }                                                                                        \
    }

DL_QUANT_TILE(dl_tile_q40, dl_unpack_q40_avx512, dl_packed_q40, 0)
DL_QUANT_TILE(dl_tile_q80, dl_unpack_q80_avx512, dl_packed_q80, 4)
DL_SPECIALISE(dl_tile_q40)
DL_SPECIALISE(dl_tile_q80)
#undef DL_QUANT_TILE
#endif
