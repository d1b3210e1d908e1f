/* Quantised tiles in portable C. Those of other instruction sets must give the same bits. */
#ifndef DL_TILE_BASELINE_H
#define DL_TILE_BASELINE_H

DL_INLINE void dl_block_q40_baseline(const uint8_t *w, const int8_t *x, int64_t stride, int32_t *dot)
{
    for (int j = 0; j < 4; j++)
        for (int r = 0; r < 16; r++)
            for (int i = 0; i < 4; i++) {
                uint8_t pair = w[(j * 16 + r) * 4 + i];
                dot[r] += (pair & 15) * x[j * stride + i] + (pair >> 4) * x[(j + 4) * stride + i];
            }
}

DL_INLINE void dl_block_q80_baseline(const uint8_t *w, const int8_t *x, int64_t stride, int32_t *dot)
{
    for (int j = 0; j < 8; j++)
        for (int r = 0; r < 16; r++)
            for (int i = 0; i < 4; i++)
                dot[r] += (int8_t)w[(j * 16 + r) * 4 + i] * x[j * stride + i];
}

DL_INLINE void dl_scale_block_baseline(const int32_t *dot, float d, const uint16_t *scales, v16_baseline *acc)
{
    for (int r = 0; r < 16; r++)
        acc->f[r] = dl_fmaf((float)dot[r] * d, dl_half_to_float(scales[r]), acc->f[r]);
}

#define DL_QUANT_TILE(name, block, block_bytes, offset)                                          \
    static void name(const dl_tile *t, int n)                                                    \
    {                                                                                            \
        dl_sums_baseline sums;                                                                   \
        int64_t b = 0;                                                                           \
        sums.count = sums.ended = 0;                                                             \
        for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {                  \
            v16_baseline acc[DL_TILE_TOKENS];                                                    \
            for (int i = 0; i < n; i++) acc[i] = v16_set1_baseline(0.0f);                        \
            for (int64_t end = b + g->columns / 32; b < end; b++) {                              \
                const uint8_t *w = t->w + b * (block_bytes);                                     \
                for (int i = 0; i < n; i++) {                                                    \
                    int32_t dot[16];                                                             \
                    for (int r = 0; r < 16; r++) dot[r] = (offset) ? t->s[b * n + i] : 0;        \
                    block(w + DL_SCALES, t->q + (b * 8 * n + i) * 4, n * 4, dot);                \
                    dl_scale_block_baseline(dot, t->d[b * n + i], (const uint16_t *)w, acc + i); \
                }                                                                                \
            }                                                                                    \
            if (dl_segment_done_baseline(&sums, g, acc, n))                                      \
                dl_put_sums_baseline(t, sums.ended++, acc, n);                                   \
        }                                                                                        \
    }

DL_QUANT_TILE(dl_tile_q40_baseline, dl_block_q40_baseline, dl_packed_q40, 1)
DL_QUANT_TILE(dl_tile_q80_baseline, dl_block_q80_baseline, dl_packed_q80, 0)
#undef DL_QUANT_TILE
#endif
