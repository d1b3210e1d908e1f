/* Words times tokens with plain NEON, in the way of Q80. */
#ifndef DL_WORDS_NEON_H
#define DL_WORDS_NEON_H

/* dl_add_dots of words.inc.h for quad g, which is rows 4g to 4g + 3. */
DL_INLINE float32x4_t dl_add_quad_neon(const dl_words *w, const int halves, const int mins, int g,
                                       const float32x4_t *dot, float d, int32_t s, int32_t h, float32x4_t acc)
{
    float32x4_t sum = dot[0];
    if (halves) sum = vfmaq_f32(vmulq_f32(dot[0], vld1q_f32(w->sub[0] + 4 * g)), dot[1], vld1q_f32(w->sub[1] + 4 * g));
    acc = vfmaq_f32(acc, vmulq_n_f32(sum, d), vld1q_f32(w->scale + 4 * g));
    if (!mins) return acc;
    sum = vdupq_n_f32((float)s);
    if (halves)
        sum = vfmaq_f32(vmulq_n_f32(vld1q_f32(w->sub_min[0] + 4 * g), (float)h), vdupq_n_f32((float)(s - h)),
                        vld1q_f32(w->sub_min[1] + 4 * g));
    return vfmaq_f32(acc, vmulq_n_f32(sum, d), vld1q_f32(w->min + 4 * g));
}

/* dot[token][quad] = start[token] + sums of the products of words j0 to j1 - 1 with m tokens from i0 on,
 * for two quads from g on. */
DL_INLINE void dl_word_dots_neon(const dl_block *b, const dl_words *w, const int n, const int g, const int i0,
                                 const int m, const int j0, const int j1, const int32_t *start,
                                 float32x4_t dot[][DL_NEON_QUADS])
{
    int32x4_t a[DL_NEON_TOKENS][DL_NEON_QUADS], c[DL_NEON_TOKENS][DL_NEON_QUADS];
    DL_UNROLL for (int i = 0; i < m; i++)
        DL_UNROLL for (int q = 0; q < DL_NEON_QUADS; q++) a[i][q] = c[i][q] = vdupq_n_s32(0);
    DL_UNROLL for (int j = j0; j < j1; j += 2) {
        int8x16_t v0[DL_NEON_QUADS], v1[DL_NEON_QUADS];
        DL_UNROLL for (int q = 0; q < DL_NEON_QUADS; q++) {
            v0[q] = vld1q_s8((const int8_t *)w->w[j] + 16 * (g + q));
            v1[q] = vld1q_s8((const int8_t *)w->w[j + 1] + 16 * (g + q));
        }
        DL_UNROLL for (int i = 0; i < m; i++) {
            int8x16_t x0 = dl_word_neon(b->x, j * n + i0 + i), x1 = dl_word_neon(b->x, (j + 1) * n + i0 + i);
            DL_UNROLL for (int q = 0; q < DL_NEON_QUADS; q++) {
                dl_sum16 two;
                dl_mul_neon(&two, v0[q], x0);
                dl_mla_neon(&two, v1[q], x1);
                a[i][q] = dl_pairs_neon(a[i][q], two.a);
                c[i][q] = dl_pairs_neon(c[i][q], two.b);
            }
        }
        if (n > 1) DL_FENCE();
    }
    DL_UNROLL for (int i = 0; i < m; i++)
        DL_UNROLL for (int q = 0; q < DL_NEON_QUADS; q++) {
            int32x4_t sum = vpaddq_s32(a[i][q], c[i][q]);
            dot[i][q] = vcvtq_f32_s32(start ? vaddq_s32(sum, vdupq_n_s32(start[i])) : sum);
        }
}

DL_INLINE void dl_two_quads_words_neon(const dl_block *b, const dl_words *w, const int n, const int halves,
                                       const int mins, int g, const int i0, v16_neon *acc)
{
    const int m = n - i0 < DL_NEON_TOKENS ? n - i0 : DL_NEON_TOKENS;
    const int starts = halves && !mins;
    int32_t start[2][DL_NEON_TOKENS];
    float32x4_t dot[2][DL_NEON_TOKENS][DL_NEON_QUADS];
    DL_UNROLL for (int i = 0; i < m; i++) {
        start[0][i] = dl_start(halves, mins, b->h[i0 + i]);
        start[1][i] = dl_start(halves, mins, b->s[i0 + i] - b->h[i0 + i]);
    }
    dl_word_dots_neon(b, w, n, g, i0, m, 0, halves ? 4 : 8, starts ? start[0] : NULL, dot[0]);
    if (halves) dl_word_dots_neon(b, w, n, g, i0, m, 4, 8, starts ? start[1] : NULL, dot[1]);
    DL_UNROLL for (int i = 0; i < m; i++)
        DL_UNROLL for (int q = 0; q < DL_NEON_QUADS; q++) {
            const int at = i0 + i;
            float32x4_t both[2] = {dot[0][i][q], dot[halves][i][q]}, *sum = &acc[at].q[g + q];
            *sum = dl_add_quad_neon(w, halves, mins, g + q, both, b->d[at], b->s[at], b->h[at], *sum);
        }
}

DL_INLINE void dl_add_words_neon(const dl_block *b, const dl_words *w, const int n, const int halves,
                                 const int mins, v16_neon *acc)
{
    for (int g = 0; g < 4; g += DL_NEON_QUADS)
        DL_UNROLL for (int i0 = 0; i0 < n; i0 += DL_NEON_TOKENS)
            dl_two_quads_words_neon(b, w, n, halves, mins, n == 1 ? g : dl_opaque(g), i0, acc);
}
#endif
