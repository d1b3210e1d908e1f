/* Words times tokens with sdot. */
#ifndef DL_WORDS_DOTPROD_H
#define DL_WORDS_DOTPROD_H

DL_INLINE void dl_quad_words_dotprod(const dl_block *b, const dl_words *w, const int8x16_t *x, const int n,
                                     const int halves, const int mins, int g, v16_neon *acc)
{
    int32x4_t dot[2][DL_TILE_TOKENS];
    DL_UNROLL for (int i = 0; i < n; i++) {
        dot[0][i] = vdupq_n_s32(dl_start(halves, mins, b->h[i]));
        dot[1][i] = vdupq_n_s32(dl_start(halves, mins, b->s[i] - b->h[i]));
    }
    DL_UNROLL for (int j = 0; j < 8; j++)
        dl_word_dotprod(dot[halves ? j / 4 : 0], vld1q_s8((const int8_t *)w->w[j] + 16 * g), x, j, n);
    DL_UNROLL for (int i = 0; i < n; i++) {
        float32x4_t both[2] = {vcvtq_f32_s32(dot[0][i]), vcvtq_f32_s32(dot[1][i])};
        acc[i].q[g] = dl_add_quad_neon(w, halves, mins, g, both, b->d[i], b->s[i], b->h[i], acc[i].q[g]);
    }
}

DL_INLINE void dl_add_words_dotprod(const dl_block *b, const dl_words *w, const int n, const int halves,
                                    const int mins, v16_neon *acc)
{
    int8x16_t x[2 * DL_TILE_TOKENS];
    DL_UNROLL for (int i = 0; i < 2 * n; i++) x[i] = vld1q_s8(b->x + 16 * i);
    for (int g = 0; g < 4; g++) dl_quad_words_dotprod(b, w, x, n, halves, mins, n == 1 ? g : dl_opaque(g), acc);
}
#endif
