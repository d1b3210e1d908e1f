/* Words times tokens with AVX-512 VNNI. Signed words are made unsigned as in Q80, those of halves already are. */
#ifndef DL_WORDS_AVX512_H
#define DL_WORDS_AVX512_H

/* The products of four words of 16 rows with those of token i. */
DL_INLINE __m512i dl_add_half_avx512(__m512i dot, const __m512i *v, const int8_t *x, const int n)
{
    DL_UNROLL for (int j = 0; j < 4; j++) dot = _mm512_dpbusd_epi32(dot, v[j], dl_x4_avx512(x + j * n * 4));
    return dot;
}

DL_INLINE void dl_add_words_avx512(const dl_block *b, const dl_words *w, const int n, const int halves,
                                   const int mins, __m512 *acc)
{
    __m512i v[8];
    const int sign = !mins && !halves, shift = sign ? 16 : mins ? 0 : 4;
    DL_UNROLL for (int j = 0; j < 8; j++) {
        v[j] = _mm512_loadu_si512(w->w[j]);
        if (sign) v[j] = _mm512_xor_si512(v[j], _mm512_set1_epi8(-128));
    }
    DL_UNROLL for (int i = 0; i < n; i++) {
        const int8_t *x = b->x + 4 * i;
        int32_t h = halves ? b->h[i] : b->s[i];
        __m512 dot[2];
        __m512i first = dl_add_half_avx512(_mm512_set1_epi32(h * shift), v, x, n);
        __m512i rest = halves ? _mm512_set1_epi32((b->s[i] - h) * shift) : first;
        rest = dl_add_half_avx512(rest, v + 4, x + 16 * n, n);
        dot[0] = _mm512_cvtepi32_ps(halves ? first : rest);
        dot[1] = _mm512_cvtepi32_ps(rest);
        acc[i] = dl_add_dots_avx512(w, halves, mins, dot, b->d[i], b->s[i], h, acc[i]);
    }
}
#endif
