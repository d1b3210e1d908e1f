/* Words times tokens with AVX-512 VNNI. Signed words are made unsigned as in Q80, those of halves already are. */
#ifndef DL_WORDS_AVX512_H
#define DL_WORDS_AVX512_H

/* Tokens whose products are computed side by side. */
enum { DL_WORDS_TOKENS_AVX512 = 2 };

/* acc[m] += the words v times m of n tokens; b points to the first of them. */
DL_INLINE void dl_add_some_avx512(const dl_block *b, const dl_words *w, const __m512i *v, const int64_t n, const int m,
                                  const int halves, const int mins, __m512 *acc)
{
    const int shift = mins ? 0 : halves ? 4 : 16;
    __m512i first[DL_WORDS_TOKENS_AVX512], rest[DL_WORDS_TOKENS_AVX512];
    DL_UNROLL for (int i = 0; i < m; i++) {
        int32_t h = halves ? b->h[i] : b->s[i];
        first[i] = _mm512_set1_epi32(h * shift), rest[i] = _mm512_set1_epi32((b->s[i] - h) * shift);
    }
    DL_UNROLL for (int j = 0; j < 4; j++)
        DL_UNROLL for (int i = 0; i < m; i++) {
            first[i] = _mm512_dpbusd_epi32(first[i], v[j], dl_x4_avx512(b->x + (j * n + i) * 4));
            rest[i] = _mm512_dpbusd_epi32(rest[i], v[4 + j], dl_x4_avx512(b->x + ((4 + j) * n + i) * 4));
        }
    DL_UNROLL for (int i = 0; i < m; i++) {
        if (!halves) first[i] = _mm512_add_epi32(first[i], rest[i]);
        __m512 dot[2] = {_mm512_cvtepi32_ps(first[i]), _mm512_cvtepi32_ps(rest[i])};
        acc[i] = dl_add_dots_avx512(w, halves, mins, dot, b->d[i], b->s[i], halves ? b->h[i] : b->s[i], acc[i]);
    }
}

/* acc[n] += the words times n tokens. */
DL_INLINE void dl_add_words_avx512(const dl_block *b, const dl_words *w, const int n, const int halves,
                                   const int mins, __m512 *acc)
{
    __m512i v[8];
    dl_block rest = *b;
    int i = 0;
    DL_UNROLL for (int j = 0; j < 8; j++) {
        v[j] = _mm512_loadu_si512(w->w[j]);
        if (!mins && !halves) v[j] = _mm512_xor_si512(v[j], _mm512_set1_epi8(-128));
    }
    for (; i + DL_WORDS_TOKENS_AVX512 <= n; i += DL_WORDS_TOKENS_AVX512) {
        dl_add_some_avx512(&rest, w, v, n, DL_WORDS_TOKENS_AVX512, halves, mins, acc + i);
        rest.x += 4 * DL_WORDS_TOKENS_AVX512, rest.d += DL_WORDS_TOKENS_AVX512;
        rest.s += DL_WORDS_TOKENS_AVX512, rest.h += DL_WORDS_TOKENS_AVX512;
    }
    if (i < n) dl_add_some_avx512(&rest, w, v, n, 1, halves, mins, acc + i);
}

#define DL_ADD_TOKENS(form, b, w, n, acc) \
    dl_add_words_avx512(b, w, n, dl_form_has_halves(dl_form_##form), dl_form_has_mins(dl_form_##form), acc)
#endif
