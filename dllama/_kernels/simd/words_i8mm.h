/* Words times tokens with smmla, whose sums are [row][token] (tile_i8mm.h). A single token uses sdot. */
#ifndef DL_WORDS_I8MM_H
#define DL_WORDS_I8MM_H

#define DL_WORD_VECTORS(n) ((n) == 1 ? 1 : DL_PAIR_VECTORS(n))
#define DL_PUT_WORDS(t, index, acc, n)                   \
    do {                                                 \
        if ((n) == 1) dl_put_sums_neon(t, index, acc, 1); \
        else dl_put_pairs_i8mm(t, index, acc, n);        \
    } while (0)

/* Rows 2r and 2r + 1 of four floats of rows, each twice. */
DL_INLINE float32x4_t dl_row_pairs_i8mm(const float *rows, const int r)
{
    float32x4_t x = vld1q_f32(rows);
    return r ? vzip2q_f32(x, x) : vzip1q_f32(x, x);
}

/* Numbers of tokens 2p and 2p + 1, twice. */
DL_INLINE float32x4_t dl_token_sums_i8mm(const int32_t *sums, const int both)
{
    return vcvtq_f32_s32(dl_twice_i8mm(dl_two_i8mm(sums, both)));
}

/* dl_add_dots of words.inc.h for rows 2r and 2r + 1 of quad g and tokens 2p and 2p + 1. */
DL_INLINE float32x4_t dl_add_pair_i8mm(const dl_block *b, const dl_words *w, const int n, const int halves,
                                       const int mins, int g, const int p, const int r, int32x4_t first,
                                       int32x4_t rest, float32x4_t acc)
{
    const int both = 2 * p + 1 < n;
    float32x4_t d = vreinterpretq_f32_s32(dl_twice_i8mm(dl_two_i8mm(b->d + 2 * p, both)));
    float32x4_t sum = vcvtq_f32_s32(first);
    if (halves)
        sum = vfmaq_f32(vmulq_f32(sum, dl_row_pairs_i8mm(w->sub[0] + 4 * g, r)), vcvtq_f32_s32(rest),
                        dl_row_pairs_i8mm(w->sub[1] + 4 * g, r));
    acc = vfmaq_f32(acc, vmulq_f32(sum, d), dl_row_pairs_i8mm(w->scale + 4 * g, r));
    if (!mins) return acc;
    sum = dl_token_sums_i8mm(b->s + 2 * p, both);
    if (halves) {
        float32x4_t h = dl_token_sums_i8mm(b->h + 2 * p, both);
        sum = vfmaq_f32(vmulq_f32(h, dl_row_pairs_i8mm(w->sub_min[0] + 4 * g, r)), vsubq_f32(sum, h),
                        dl_row_pairs_i8mm(w->sub_min[1] + 4 * g, r));
    }
    return vfmaq_f32(acc, vmulq_f32(sum, d), dl_row_pairs_i8mm(w->min + 4 * g, r));
}

DL_INLINE void dl_quad_words_i8mm(const dl_block *b, const dl_words *w, int8x16_t x[][4], const int n,
                                  const int halves, const int mins, int g, v16_neon *acc)
{
    int32x4_t dot[2][DL_TILE_TOKENS / 2][2];
    DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++) {
        const int both = 2 * p + 1 < n;
        int32x4_t start[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
        if (halves && !mins) {
            int32x4_t h = dl_twice_i8mm(dl_two_i8mm(b->h + 2 * p, both));
            start[0] = vshlq_n_s32(h, 2);
            start[1] = vshlq_n_s32(vsubq_s32(dl_twice_i8mm(dl_two_i8mm(b->s + 2 * p, both)), h), 2);
        }
        DL_UNROLL for (int r = 0; r < 2; r++) dot[0][p][r] = start[0], dot[1][p][r] = start[1];
    }
    DL_UNROLL for (int k = 0; k < 4; k++) {
        int8x16_t even = vld1q_s8((const int8_t *)w->w[2 * k] + 16 * g);
        int8x16_t odd = vld1q_s8((const int8_t *)w->w[2 * k + 1] + 16 * g);
        dl_words_i8mm(dot[halves ? k / 2 : 0], dl_zip1_i8mm(even, odd), x, k, 0, n);
        dl_words_i8mm(dot[halves ? k / 2 : 0], dl_zip2_i8mm(even, odd), x, k, 1, n);
    }
    DL_UNROLL for (int p = 0; p < DL_PAIRS(n); p++)
        DL_UNROLL for (int r = 0; r < 2; r++) {
            float32x4_t *sum = &acc[2 * p + (g >> 1)].q[2 * (g & 1) + r];
            *sum = dl_add_pair_i8mm(b, w, n, halves, mins, g, p, r, dot[0][p][r], dot[1][p][r], *sum);
        }
}

DL_INLINE void dl_add_words_i8mm(const dl_block *b, const dl_words *w, const int n, const int halves,
                                 const int mins, v16_neon *acc)
{
    if (n == 1) {
        dl_add_words_dotprod(b, w, 1, halves, mins, acc);
        return;
    }
    int8x16_t x[DL_TILE_TOKENS / 2][4];
    dl_tokens_i8mm(b, n, x);
    for (int g = 0; g < 4; g++) dl_quad_words_i8mm(b, w, x, n, halves, mins, dl_opaque(g), acc);
}
#endif
