/* Encoders that search the scales of a block for the least weighted squared error. Compiled once
 * per instruction set.
 *
 * x[n]: numbers of a block; w[n]: how much the squared error of each counts.
 */
#include "fit.inc.h"

DL_INLINE float DL_FN(dl_put_half)(uint8_t *dst, float value, int *bad)
{
    uint16_t half = dl_float_to_half(value);
    memcpy(dst, &half, 2);
    *bad |= (half & 0x7c00) == 0x7c00;
    return dl_half_to_float(half);
}

/* Byte i: the low four bits of q[i], then those of q[i + 16]. */
DL_INLINE void DL_FN(dl_put_nibbles)(const int8_t *q, uint8_t *dst)
{
    for (int i = 0; i < 16; i++) dst[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

/* q[32] of a block x = d (q - zero), and d in dst[2]. */
DL_INLINE void DL_FN(dl_search_scale)(const float *x, const float *w, int zero, int8_t *q,
                                      uint8_t *dst, int *bad)
{
    DL_FN(dl_grid) g = {(float)-zero, (float)(zero - 1), 0};
    DL_FN(dl_reach) r = {0.7f, 1.2f, 15};
    float d = DL_FN(dl_put_half)(dst, DL_FN(dl_fit_scale)(x, w, 32, &g, &r), bad);
    DL_FN(dl_put_nearest)(x, 32, d, 0.0f, &g, q);
    for (int i = 0; i < 32; i++) q[i] = (int8_t)(q[i] + zero);
}

/* dl_search_NAME: one block. Returns not 0 if a stored number is not finite. */

DL_INLINE int DL_FN(dl_search_q40)(const float *x, const float *w, uint8_t *dst)
{
    int bad = 0;
    int8_t q[32];
    DL_FN(dl_search_scale)(x, w, 8, q, dst, &bad);
    DL_FN(dl_put_nibbles)(q, dst + 2);
    return bad;
}

/* w = importance[n] * sqrt(mean x^2 + x^2): larger numbers count a little more. Returns not 0 if
 * one of them is not finite, or too large for every type. */
DL_INLINE int DL_FN(dl_weigh)(const float *x, const float *importance, int n, float *w)
{
    VT sum = V(set1)(0.0f), zero = sum, nothing = sum;
    for (int i = 0; i < n; i += 16) {
        VT a = V(load)(x + i);
        sum = V(fma)(a, a, sum), nothing = V(fma)(a, zero, nothing);
    }
    float mean = V(hsum)(sum) / (float)n;
    for (int i = 0; i < n; i++) {
        float size = sqrtf(mean + x[i] * x[i]);
        w[i] = importance ? importance[i] * size : size;
    }
    float extreme = DL_FN(dl_extreme)(x, n);
    return V(hsum)(nothing) != 0.0f || !(fabsf(extreme) < 1e9f);
}

/* Encodes a row of n numbers, which are whole blocks; importance[n], or NULL for 1. Returns not 0
 * if a number is not finite, before or after encoding. */
static int DL_FN(dl_search)(const float *x, const float *importance, int64_t n, int type, uint8_t *dst)
{
#define DL_SEARCH_CASE(name)                                                                   \
    case dl_type_##name:                                                                       \
        for (int64_t i = 0; i < n; i += dl_block_##name, dst += dl_bytes_##name)               \
            bad |= DL_FN(dl_weigh)(x + i, importance ? importance + i : 0, dl_block_##name, w) \
                || DL_FN(dl_search_##name)(x + i, w, dst);                                     \
        break;
    float w[256];
    int bad = 0;
    switch (type) { DL_SEARCHED_TYPES(DL_SEARCH_CASE) }
    return bad;
#undef DL_SEARCH_CASE
}
