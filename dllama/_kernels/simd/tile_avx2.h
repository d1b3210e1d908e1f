/* Quantised tiles with AVX2: vpmaddubsw adds pairs of products in 16 bits.
 *
 * Q40: a block adds 8 pairs of at most 2 * 15 * 127 = 3810 to an int16, 30480 at most. Q80: |w| <=
 * 128 times |x| <= 127, two at a time, 32512 at most.
 */
#ifndef DL_TILE_AVX2_H
#define DL_TILE_AVX2_H

/* Keeps a sum in a register. Otherwise compilers store all products of a block in memory and add
 * them up as a tree. */
#define DL_KEEP(v) __asm__("" : "+x"(v))

DL_INLINE __m256i dl_x4_avx2(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

DL_INLINE __m256 dl_scaled_avx2(__m256i dot, float d, __m256 scale, __m256 acc)
{
    __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_set1_ps(d));
    return _mm256_fmadd_ps(t, scale, acc);
}

/* Adds products of four columns of 16 rows with m tokens, in pairs. */
DL_INLINE void dl_pairs_avx2(__m256i w0, __m256i w1, const int8_t *x, const int m, __m256i *a, __m256i *c)
{
    DL_UNROLL for (int i = 0; i < m; i++) {
        __m256i x4 = dl_x4_avx2(x + 4 * i);
        a[i] = _mm256_add_epi16(a[i], _mm256_maddubs_epi16(w0, x4));
        c[i] = _mm256_add_epi16(c[i], _mm256_maddubs_epi16(w1, x4));
        DL_KEEP(a[i]);
        DL_KEEP(c[i]);
    }
}

DL_INLINE void dl_tile_q40_n_avx2(const dl_tile *t, const int n)
{
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    dl_sums_avx2 sums;
    sums.count = sums.ended = 0;
    const uint8_t *w = t->w;
    const int8_t *x = t->q;
    const float *d = t->d;
    const int32_t *s = t->s;
    for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {
        v16_avx2 acc[DL_TILE_TOKENS];
        DL_UNROLL for (int i = 0; i < n; i++) acc[i] = v16_set1_avx2(0.0f);
        for (int b = g->columns / 32; b > 0; b--) {
            v16_avx2 scale = v16_load_half_avx2((const uint16_t *)w);
            dl_fetch(w, dl_packed_q40, t->ahead);
            DL_UNROLL for (int i0 = 0; i0 < n; i0 += 4) {
                const int m = n - i0 < 4 ? n - i0 : 4;
                __m256i a[4], c[4];
                DL_UNROLL for (int i = 0; i < m; i++) a[i] = c[i] = _mm256_setzero_si256();
                DL_UNROLL for (int j = 0; j < 4; j++) {
                    __m256i v0 = _mm256_loadu_si256((const __m256i *)(w + DL_SCALES + 64 * j));
                    __m256i v1 = _mm256_loadu_si256((const __m256i *)(w + DL_SCALES + 64 * j + 32));
                    dl_pairs_avx2(_mm256_and_si256(v0, nibble), _mm256_and_si256(v1, nibble),
                                  x + (j * n + i0) * 4, m, a, c);
                    v0 = _mm256_and_si256(_mm256_srli_epi16(v0, 4), nibble);
                    v1 = _mm256_and_si256(_mm256_srli_epi16(v1, 4), nibble);
                    dl_pairs_avx2(v0, v1, x + ((j + 4) * n + i0) * 4, m, a, c);
                }
                DL_UNROLL for (int i = 0; i < m; i++) {
                    __m256i offset = _mm256_set1_epi32(s[i0 + i]);
                    __m256i p = _mm256_add_epi32(_mm256_madd_epi16(a[i], ones), offset);
                    __m256i r = _mm256_add_epi32(_mm256_madd_epi16(c[i], ones), offset);
                    acc[i0 + i].a = dl_scaled_avx2(p, d[i0 + i], scale.a, acc[i0 + i].a);
                    acc[i0 + i].b = dl_scaled_avx2(r, d[i0 + i], scale.b, acc[i0 + i].b);
                }
            }
            w += dl_packed_q40, x += 32 * n, d += n, s += n;
        }
        if (dl_segment_done_avx2(&sums, g, acc, n)) dl_put_sums_avx2(t, sums.ended++, acc, n);
    }
}

DL_INLINE __m256i dl_dot_s8_avx2(__m256i w, __m256i x, __m256i sum)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

DL_INLINE void dl_tile_q80_n_avx2(const dl_tile *t, const int n)
{
    dl_sums_avx2 sums;
    sums.count = sums.ended = 0;
    const uint8_t *w = t->w;
    const int8_t *x = t->q;
    const float *d = t->d;
    for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {
        v16_avx2 acc[DL_TILE_TOKENS];
        DL_UNROLL for (int i = 0; i < n; i++) acc[i] = v16_set1_avx2(0.0f);
        for (int b = g->columns / 32; b > 0; b--) {
            v16_avx2 scale = v16_load_half_avx2((const uint16_t *)w);
            __m256i p[DL_TILE_TOKENS], r[DL_TILE_TOKENS];
            DL_UNROLL for (int i = 0; i < n; i++) p[i] = r[i] = _mm256_setzero_si256();
            DL_UNROLL for (int j = 0; j < 8; j++) {
                dl_fetch_part(w, dl_packed_q80, t->ahead, j);
                __m256i v0 = _mm256_loadu_si256((const __m256i *)(w + DL_SCALES + 64 * j));
                __m256i v1 = _mm256_loadu_si256((const __m256i *)(w + DL_SCALES + 64 * j + 32));
                DL_UNROLL for (int i = 0; i < n; i++) {
                    __m256i xj = dl_x4_avx2(x + (j * n + i) * 4);
                    p[i] = dl_dot_s8_avx2(v0, xj, p[i]);
                    r[i] = dl_dot_s8_avx2(v1, xj, r[i]);
                    DL_KEEP(p[i]); DL_KEEP(r[i]);
                }
            }
            DL_UNROLL for (int i = 0; i < n; i++) {
                acc[i].a = dl_scaled_avx2(p[i], d[i], scale.a, acc[i].a);
                acc[i].b = dl_scaled_avx2(r[i], d[i], scale.b, acc[i].b);
            }
            w += dl_packed_q80, x += 32 * n, d += n;
        }
        if (dl_segment_done_avx2(&sums, g, acc, n)) dl_put_sums_avx2(t, sums.ended++, acc, n);
    }
}

DL_SPECIALISE(dl_tile_q40)
DL_SPECIALISE(dl_tile_q80)
#endif
