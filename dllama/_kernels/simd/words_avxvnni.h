/* Words times tokens with AVX-VNNI. Signed words are made unsigned as in Q80, those of halves already are. */
#ifndef DL_WORDS_AVXVNNI_H
#define DL_WORDS_AVXVNNI_H

/* Adds the products of words j0 to j0 + 3 with m tokens from i0 on to p (rows 0 to 7) and r. */
DL_INLINE void dl_add_half_avxvnni(const dl_block *b, const dl_words *w, const int n, const int i0, const int m,
                                   const int j0, const int sign, __m256i *p, __m256i *r)
{
    const __m256i flip = _mm256_set1_epi8(-128);
    DL_UNROLL for (int j = j0; j < j0 + 4; j++) {
        __m256i w0 = _mm256_loadu_si256((const __m256i *)w->w[j]);
        __m256i w1 = _mm256_loadu_si256((const __m256i *)(w->w[j] + 32));
        if (sign) w0 = _mm256_xor_si256(w0, flip), w1 = _mm256_xor_si256(w1, flip);
        DL_UNROLL for (int i = 0; i < m; i++) {
            __m256i x = dl_x4_avxvnni(b->x + (j * n + i0 + i) * 4);
            p[i] = dl_dot_avxvnni(p[i], w0, x);
            r[i] = dl_dot_avxvnni(r[i], w1, x);
        }
    }
}

DL_INLINE void dl_add_words_avxvnni(const dl_block *b, const dl_words *w, const int n, const int halves,
                                    const int mins, v16_avx2 *acc)
{
    const int sign = !mins && !halves, shift = sign ? 16 : mins ? 0 : 4;
    DL_UNROLL for (int i0 = 0; i0 < n; i0 += DL_WORDS_TOKENS_AVX2) {
        const int m = n - i0 < DL_WORDS_TOKENS_AVX2 ? n - i0 : DL_WORDS_TOKENS_AVX2;
        __m256i p[2][DL_WORDS_TOKENS_AVX2], r[2][DL_WORDS_TOKENS_AVX2];
        DL_UNROLL for (int i = 0; i < m; i++) {
            int32_t s = b->s[i0 + i], h = halves ? b->h[i0 + i] : s;
            p[0][i] = r[0][i] = _mm256_set1_epi32(h * shift);
            p[1][i] = r[1][i] = _mm256_set1_epi32((s - h) * shift);
        }
        dl_add_half_avxvnni(b, w, n, i0, m, 0, sign, p[0], r[0]);
        dl_add_half_avxvnni(b, w, n, i0, m, 4, sign, p[halves], r[halves]);
        dl_add_sums_avx2(b, w, m, i0, halves, mins, p, r, acc);
    }
}
#endif
