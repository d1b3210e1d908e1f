/* Words times tokens with AVX2. As many words are added in 16 bits as fit: four of forms with mins, 4 * 2 *
 * 31 * 127 = 31496 at most, two of halves, 2 * 2 * 63 * 127 = 32004 at most, else one. */
#ifndef DL_WORDS_AVX2_H
#define DL_WORDS_AVX2_H

enum { DL_WORDS_TOKENS_AVX2 = 4 };

/* Pairs of products of a word of 8 rows. */
DL_INLINE __m256i dl_word_products_avx2(__m256i w, __m256i x, const int sign)
{
    if (!sign) return _mm256_maddubs_epi16(w, x);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

/* Adds the products of words j0 to j0 + 3 with m tokens from i0 on to p (rows 0 to 7) and r. */
DL_INLINE void dl_add_half_avx2(const dl_block *b, const dl_words *w, const int n, const int i0, const int m,
                                const int j0, const int fit, __m256i *p, __m256i *r)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a[DL_WORDS_TOKENS_AVX2], c[DL_WORDS_TOKENS_AVX2];
    DL_UNROLL for (int j = j0; j < j0 + 4; j++) {
        __m256i w0 = _mm256_loadu_si256((const __m256i *)w->w[j]);
        __m256i w1 = _mm256_loadu_si256((const __m256i *)(w->w[j] + 32));
        DL_UNROLL for (int i = 0; i < m; i++) {
            __m256i x = dl_x4_avx2(b->x + (j * n + i0 + i) * 4);
            __m256i y = dl_word_products_avx2(w0, x, fit == 1), z = dl_word_products_avx2(w1, x, fit == 1);
            a[i] = j % fit == 0 ? y : _mm256_add_epi16(a[i], y);
            c[i] = j % fit == 0 ? z : _mm256_add_epi16(c[i], z);
            if (fit > 1) { DL_KEEP(a[i]); DL_KEEP(c[i]); }
            if (j % fit != fit - 1) continue;
            p[i] = _mm256_add_epi32(p[i], _mm256_madd_epi16(a[i], ones));
            r[i] = _mm256_add_epi32(r[i], _mm256_madd_epi16(c[i], ones));
            DL_KEEP(p[i]); DL_KEEP(r[i]);
        }
    }
}

/* acc[i0 + i] += the scaled sums of token i0 + i, for m tokens: p has those of rows 0 to 7, r the rest. */
DL_INLINE void dl_add_sums_avx2(const dl_block *b, const dl_words *w, const int m, const int i0, const int halves,
                                const int mins, __m256i p[][DL_WORDS_TOKENS_AVX2],
                                __m256i r[][DL_WORDS_TOKENS_AVX2], v16_avx2 *acc)
{
    DL_UNROLL for (int i = 0; i < m; i++) {
        const int at = i0 + i;
        v16_avx2 dot[2];
        DL_UNROLL for (int h = 0; h < 2; h++)
            dot[h] = (v16_avx2){_mm256_cvtepi32_ps(p[h][i]), _mm256_cvtepi32_ps(r[h][i])};
        acc[at] = dl_add_dots_avx2(w, halves, mins, dot, b->d[at], b->s[at], b->h[at], acc[at]);
    }
}

DL_INLINE void dl_add_words_avx2(const dl_block *b, const dl_words *w, const int n, const int halves,
                                 const int mins, v16_avx2 *acc)
{
    const int fit = mins ? 4 : halves ? 2 : 1;
    DL_UNROLL for (int i0 = 0; i0 < n; i0 += DL_WORDS_TOKENS_AVX2) {
        const int m = n - i0 < DL_WORDS_TOKENS_AVX2 ? n - i0 : DL_WORDS_TOKENS_AVX2;
        __m256i p[2][DL_WORDS_TOKENS_AVX2], r[2][DL_WORDS_TOKENS_AVX2];
        DL_UNROLL for (int i = 0; i < m; i++) {
            p[0][i] = r[0][i] = _mm256_set1_epi32(dl_start(halves, mins, b->h[i0 + i]));
            p[1][i] = r[1][i] = _mm256_set1_epi32(dl_start(halves, mins, b->s[i0 + i] - b->h[i0 + i]));
        }
        dl_add_half_avx2(b, w, n, i0, m, 0, fit, p[0], r[0]);
        dl_add_half_avx2(b, w, n, i0, m, 4, fit, p[halves], r[halves]);
        dl_add_sums_avx2(b, w, m, i0, halves, mins, p, r, acc);
    }
}
#endif
