/* Attention to a block of keys and values in Q80; panels are described in attention.h.
 *
 * Queries and softmax weights become int16 with one scale for a row. So the sum of all products
 * that share scales is an integer, which is exact in any order.
 */

/* dst[n] = x / scale, rounded; n is a multiple of 16. Returns the scale, max|x| / 32767. */
DL_INLINE float DL_FN(dl_to_i16)(const float *x, int n, int16_t *dst)
{
    VT most = V(set1)(0.0f), top = V(set1)(32767.0f), bottom = V(set1)(-32767.0f);
    for (int i = 0; i < n; i += 16) most = V(max)(most, V(abs)(V(load)(x + i)));
    float largest = V(hmax)(most);
    VT inverse = V(set1)(largest > 1e-30f ? 32767.0f / largest : 0.0f);
    for (int i = 0; i < n; i += 16) {
        VT y = V(round)(V(mul)(V(load)(x + i), inverse));
        V(store_i16)(dst + i, V(min)(V(max)(y, bottom), top));
    }
    return largest / 32767.0f;
}

/* scores[r][p] = q[r] . k[p], with n rows of int16 queries and their scales. Blocks of 32 elements
 * are added in order. Prefetches as dl_scores_f32 does. */
DL_INLINE void DL_FN(dl_scores_q80)(const dl_attend *a, const int n)
{
    int16_t q[DL_ATTEND_ROWS][DL_HEAD_MAX];
    float scale[DL_ATTEND_ROWS];
    const char *panel = (const char *)a->k + a->begin / 16 * dl_kv_panel(a->padded);
    const char *values = (const char *)a->v + a->begin / 16 * dl_kv_panel(a->stride);
    for (int r = 0; r < n; r++) {
        float x[DL_HEAD_MAX + 16];
        for (int d = a->padded - 16; d < a->padded; d++) x[d] = 0.0f;
        memcpy(x, a->q + r * a->size, (size_t)a->size * sizeof(float));
        scale[r] = DL_FN(dl_to_i16)(x, a->padded, q[r]);
    }
    for (int p = a->begin; p < a->count; p += 16) {
        const uint16_t *scales = (const uint16_t *)panel;
        const int8_t *k = (const int8_t *)(panel + dl_kv_scales(a->padded));
        VT acc[DL_ATTEND_ROWS];
        DL_UNROLL for (int r = 0; r < n; r++) acc[r] = V(set1)(0.0f);
        for (int d = 0; d < a->padded; scales += 16) {
            VSUMS sums[DL_ATTEND_ROWS];
            DL_UNROLL for (int r = 0; r < n; r++) sums[r] = V(zero_sums)();
            for (int end = d + 32 < a->padded ? d + 32 : a->padded; d < end; d += 2, k += 32, values += 32) {
                __builtin_prefetch(values);
                VPAIRS keys = V(load_pairs)(k);
                DL_UNROLL for (int r = 0; r < n; r++) sums[r] = V(dot)(sums[r], keys, q[r] + d);
            }
            VT factor = V(load_half)(scales);
            DL_UNROLL for (int r = 0; r < n; r++) acc[r] = V(fma)(factor, V(float)(sums[r]), acc[r]);
        }
        DL_UNROLL for (int r = 0; r < n; r++)
            V(store)(a->scores + r * DL_KV_BLOCK + p, V(mul)(acc[r], V(set1)(scale[r])));
        panel += dl_kv_panel(a->padded);
    }
}

/* w = weights of the positions of a row times the scales of block b of the values, as int16; both
 * from a->begin to a->count. Returns their scale. A weight of zero gives zero, whatever the scale. */
DL_INLINE float DL_FN(dl_weigh_q80)(const dl_attend *a, const float *weights, int b, int16_t *w)
{
    float x[DL_KV_BLOCK];
    VT zero = V(set1)(0.0f);
    const char *panel = (const char *)a->v + a->begin / 16 * dl_kv_panel(a->stride);
    for (int p = a->begin; p < a->count; p += 16, panel += dl_kv_panel(a->stride)) {
        VT weight = V(load)(weights + p), scale = V(load_half)((const uint16_t *)panel + 16 * b);
        V(store)(x + p, V(where_gt)(weight, zero, V(mul)(weight, scale)));
    }
    return DL_FN(dl_to_i16)(x + a->begin, (a->count - a->begin + 15) / 16 * 16, w + a->begin);
}

/* o[r][d..d+15] = sum over positions of w[r][p] * v[p], times scale[r]. Prefetches as dl_mix_f32. */
DL_INLINE const char *DL_FN(dl_mix16_q80)(const dl_attend *a, const int n, int d,
                                       int16_t w[][DL_KV_BLOCK], const float *scale, const char *next)
{
    const char *panel = (const char *)a->v + a->begin / 16 * dl_kv_panel(a->values)
        + dl_kv_scales(a->values) + 2 * d;
    VSUMS sums[DL_ATTEND_ROWS];
    DL_UNROLL for (int r = 0; r < n; r++) sums[r] = V(zero_sums)();
    for (int p = a->begin; p < a->count; p += 16, panel += dl_kv_panel(a->values))
        _Pragma("GCC unroll 2") for (int i = 0; i < 16; i += 2, next += 32) {
            __builtin_prefetch(next);
            VPAIRS values = V(load_pairs)((const int8_t *)panel + i * a->values);
            DL_UNROLL for (int r = 0; r < n; r++) sums[r] = V(dot)(sums[r], values, w[r] + p + i);
        }
    DL_UNROLL for (int r = 0; r < n; r++)
        V(store)(a->partial[r].o + d, V(mul)(V(float)(sums[r]), V(set1)(scale[r])));
    return next;
}

/* o[r] = sum over positions of scores[r][p] * v[p]. A sum over DL_KV_BLOCK positions fits in int32. */
DL_INLINE void DL_FN(dl_mix_q80)(const dl_attend *a, const int n)
{
    int16_t w[DL_ATTEND_ROWS][DL_KV_BLOCK];
    float scale[DL_ATTEND_ROWS];
    const char *next = (const char *)a->next + DL_AHEAD * n;
    for (int b = 0; b * 32 < a->values; b++) {
        for (int r = 0; r < n; r++)
            scale[r] = DL_FN(dl_weigh_q80)(a, a->scores + r * DL_KV_BLOCK, b, w[r]);
        for (int d = b * 32; d < a->values && d < b * 32 + 32; d += 16)
            next = DL_FN(dl_mix16_q80)(a, n, d, w, scale, next);
    }
}

/* o[r][d] and o[r][d + 1] = sums over positions of w[r][p] times elements d and d + 1 of keys, times
 * scale[r]. A lane is a position: w[0] has pairs (w[r][p], 0), w[1] pairs (0, w[r][p]). */
DL_INLINE const char *DL_FN(dl_mix2_q80)(const dl_attend *a, const int n, int d,
                                      int16_t w[2][DL_ATTEND_ROWS][2 * DL_KV_BLOCK], const float *scale, const char *next)
{
    const char *panel = (const char *)a->k + a->begin / 16 * dl_kv_panel(a->padded)
        + dl_kv_scales(a->padded) + d / 2 * 32;
    VSUMS sums[2][DL_ATTEND_ROWS];
    DL_UNROLL for (int r = 0; r < n; r++) sums[0][r] = sums[1][r] = V(zero_sums)();
    for (int p = a->begin; p < a->count; p += 16, panel += dl_kv_panel(a->padded), next += 32) {
        __builtin_prefetch(next);
        VPAIRS keys = V(load_pairs)((const int8_t *)panel);
        DL_UNROLL for (int r = 0; r < n; r++) {
            sums[0][r] = V(dot_lanes)(sums[0][r], keys, w[0][r] + 2 * p);
            sums[1][r] = V(dot_lanes)(sums[1][r], keys, w[1][r] + 2 * p);
        }
    }
    for (int r = 0; r < n; r++)
        for (int i = 0; i < 2; i++) {
            int32_t lanes[16], sum = 0;
            memcpy(lanes, &sums[i][r], sizeof lanes);
            for (int lane = 0; lane < 16; lane++) sum += lanes[lane];
            a->partial[r].o[d + i] = (float)sum * scale[r];
        }
    return next;
}

/* As dl_mix_q80, with values that are the first elements of keys. */
DL_INLINE void DL_FN(dl_mix_keys_q80)(const dl_attend *a, const int n)
{
    int16_t one[DL_KV_BLOCK], w[2][DL_ATTEND_ROWS][2 * DL_KV_BLOCK];
    float scale[DL_ATTEND_ROWS];
    const char *next = (const char *)a->next + DL_AHEAD * n;
    for (int b = 0; b * 32 < a->values; b++) {
        for (int r = 0; r < n; r++) {
            scale[r] = DL_FN(dl_weigh_q80)(a, a->scores + r * DL_KV_BLOCK, b, one);
            for (int p = a->begin; p < (a->count + 15) / 16 * 16; p++) {
                w[0][r][2 * p] = w[1][r][2 * p + 1] = one[p];
                w[0][r][2 * p + 1] = w[1][r][2 * p] = 0;
            }
        }
        for (int d = b * 32; d < a->values && d < b * 32 + 32; d += 2)
            next = DL_FN(dl_mix2_q80)(a, n, d, w, scale, next);
    }
}

/* Puts a head x[size] into position `at` of panels. Each 32 elements get a scale, as in Q80 rows.
 * Element e goes to to[e / 2 * pair + e % 2 * one] after the scales of its panel. */
DL_INLINE void DL_FN(dl_put_head_q80)(const float *x, int size, int at, char *panels, int to, int pair, int one)
{
    int padded = (size + 15) / 16 * 16;
    char *panel = panels + at / 16 * dl_kv_panel(padded);
    int8_t *elements = (int8_t *)panel + dl_kv_scales(padded) + to;
    for (int first = 0; first < size; first += 32) {
        int n = size - first < 32 ? size - first : 32, stored = padded - first < 32 ? padded - first : 32;
        float block[32] = {0};
        int8_t q[32];
        memcpy(block, x + first, (size_t)n * sizeof(float));
        ((uint16_t *)panel)[first / 32 * 16 + at % 16] = DL_FN(dl_round32)(block, q);
        for (int i = 0; i < stored; i++) elements[(first + i) / 2 * pair + i % 2 * one] = q[i];
    }
}

/* Puts a key or a value x[size] into position `at` of the panels of a block. */
static void DL_FN(dl_put_q80)(const float *x, int size, int at, int is_value, void *panels)
{
    int padded = (size + 15) / 16 * 16;
    if (is_value) DL_FN(dl_put_head_q80)(x, size, at, panels, at % 16 / 2 * 2 * padded + at % 2, 4, 2);
    else DL_FN(dl_put_head_q80)(x, size, at, panels, at % 16 * 2, 32, 1);
}
