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

/* Bit i: bit 4 of q[i]. */
DL_INLINE void DL_FN(dl_put_fifth)(const int8_t *q, uint8_t *dst)
{
    memset(dst, 0, 4);
    for (int i = 0; i < 32; i++) dst[i / 8] |= (uint8_t)((q[i] >> 4 & 1) << i % 8);
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

/* q[32] of a block x = d q + m, and d and m in dst[4]. */
DL_INLINE void DL_FN(dl_search_line)(const float *x, const float *w, float top, int8_t *q,
                                     uint8_t *dst, int *bad)
{
    DL_FN(dl_grid) g = {0.0f, top, 0};
    DL_FN(dl_reach) r = {0.9f, 1.25f, 7};
    float d, m;
    DL_FN(dl_fit_line)(x, w, 32, &g, INFINITY, &r, &d, &m);
    d = DL_FN(dl_put_half)(dst, d, bad), m = DL_FN(dl_put_half)(dst + 2, m, bad);
    DL_FN(dl_put_nearest)(x, 32, d, m, &g, q);
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

DL_INLINE int DL_FN(dl_search_q50)(const float *x, const float *w, uint8_t *dst)
{
    int bad = 0;
    int8_t q[32];
    DL_FN(dl_search_scale)(x, w, 16, q, dst, &bad);
    DL_FN(dl_put_fifth)(q, dst + 2);
    DL_FN(dl_put_nibbles)(q, dst + 6);
    return bad;
}

DL_INLINE int DL_FN(dl_search_q41)(const float *x, const float *w, uint8_t *dst)
{
    int bad = 0;
    int8_t q[32];
    DL_FN(dl_search_line)(x, w, 15.0f, q, dst, &bad);
    DL_FN(dl_put_nibbles)(q, dst + 4);
    return bad;
}

DL_INLINE int DL_FN(dl_search_q51)(const float *x, const float *w, uint8_t *dst)
{
    int bad = 0;
    int8_t q[32];
    DL_FN(dl_search_line)(x, w, 31.0f, q, dst, &bad);
    DL_FN(dl_put_fifth)(q, dst + 4);
    DL_FN(dl_put_nibbles)(q, dst + 8);
    return bad;
}

DL_INLINE int DL_FN(dl_search_iq4nl)(const float *x, const float *w, uint8_t *dst)
{
    DL_FN(dl_grid) g = {-127.0f, 113.0f, dl_table_iq4};
    DL_FN(dl_reach) r = {0.7f, 1.2f, 15};
    int bad = 0;
    int8_t q[32];
    float d = DL_FN(dl_put_half)(dst, DL_FN(dl_fit_scale)(x, w, 32, &g, &r), &bad);
    DL_FN(dl_put_nearest)(x, 32, d, 0.0f, &g, q);
    for (int i = 0; i < 32; i++) {
        int8_t index = 0;
        while (g.table[index] != q[i]) index++;
        q[i] = index;
    }
    DL_FN(dl_put_nibbles)(q, dst + 2);
    return bad;
}

/* A super-block of 8 lines of 32 numbers: x = d scale q - dmin min, with scale and min 0..63. */
typedef struct {
    uint16_t d, dmin;
    uint8_t scale[8], min[8];
    float error;
} DL_FN(dl_lines);

/* The integer `step` beyond the one nearest to x >= 0, cut to 0..63. */
DL_INLINE int DL_FN(dl_six)(float x, int step)
{
    int i = (int)(x < 63.0f ? x + 0.5f : 63.0f) + step;
    return i < 0 ? 0 : i > 63 ? 63 : i;
}

/* Chooses scale and min of line j: of the integers next to those of x = s q + m, those of least
 * error. */
DL_INLINE void DL_FN(dl_choose)(const float *x, const float *w, float s, float m, int j,
                                const DL_FN(dl_grid) *g, DL_FN(dl_lines) *b)
{
    float d = dl_half_to_float(b->d), dmin = dl_half_to_float(b->dmin), best = INFINITY;
    for (int i = 0; i < 9; i++) {
        int scale = DL_FN(dl_six)(s * DL_FN(dl_inverse)(d), i / 3 - 1);
        int min = DL_FN(dl_six)(-m * DL_FN(dl_inverse)(dmin), i % 3 - 1);
        float error = DL_FN(dl_error)(x, w, 32, d * (float)scale, -dmin * (float)min, g);
        if (error < best) best = error, b->scale[j] = (uint8_t)scale, b->min[j] = (uint8_t)min;
    }
    b->error += best;
}

/* d and dmin of least error for the integers of b; returns 0 if they are not positive. */
DL_INLINE int DL_FN(dl_refit)(const float *x, const float *w, const DL_FN(dl_grid) *g,
                              const DL_FN(dl_lines) *b, float *d, float *dmin)
{
    float aa = 0.0f, ab = 0.0f, bb = 0.0f, xa = 0.0f, xb = 0.0f;
    for (int j = 0; j < 8; j++) {
        float scale = (float)b->scale[j], min = (float)b->min[j];
        float inverse = DL_FN(dl_inverse)(dl_half_to_float(b->d) * scale);
        DL_FN(dl_moments) t = DL_FN(dl_moments_of)(x + 32 * j, w + 32 * j, 32, inverse,
                                                   -dl_half_to_float(b->dmin) * min, g);
        aa += scale * scale * t.qq, ab += scale * min * t.q, bb += min * min * t.w;
        xa += scale * t.xq, xb += min * t.x;
    }
    float det = aa * bb - ab * ab;
    *d = bb > 0.0f ? (xa * bb - xb * ab) / det : xa / aa;
    *dmin = bb > 0.0f ? (xa * ab - xb * aa) / det : 0.0f;
    return aa > 0.0f && (bb > 0.0f ? det > 0.0f && *dmin > 0.0f : 1) && *d > 0.0f;
}

/* d, dmin, and 8 scales and mins of six bits: those of lines 0 to 3 in bytes of their own, whose
 * high bits are those of lines 4 to 7. */
DL_INLINE void DL_FN(dl_put_lines)(const DL_FN(dl_lines) *b, uint8_t *dst)
{
    memcpy(dst, &b->d, 2), memcpy(dst + 2, &b->dmin, 2);
    for (int j = 0; j < 4; j++) {
        dst[4 + j] = (uint8_t)(b->scale[j] | b->scale[j + 4] >> 4 << 6);
        dst[8 + j] = (uint8_t)(b->min[j] | b->min[j + 4] >> 4 << 6);
        dst[12 + j] = (uint8_t)((b->scale[j + 4] & 15) | (b->min[j + 4] & 15) << 4);
    }
}

/* q[256] of 8 lines, and the rest of them in dst[16]. The lines are fitted alone, then d and dmin
 * for all of them, twice. */
static int DL_FN(dl_search_lines)(const float *x, const float *w, float top, int8_t *q, uint8_t *dst)
{
    DL_FN(dl_grid) g = {0.0f, top, 0};
    DL_FN(dl_reach) r = {0.9f, 1.25f, 7};
    DL_FN(dl_lines) best = {.error = INFINITY};
    float s[8], m[8], d = 0.0f, dmin = 0.0f;
    for (int j = 0; j < 8; j++) {
        DL_FN(dl_fit_line)(x + 32 * j, w + 32 * j, 32, &g, 0.0f, &r, s + j, m + j);
        d = s[j] > d ? s[j] : d, dmin = -m[j] > dmin ? -m[j] : dmin;
    }
    d /= 63.0f, dmin /= 63.0f;
    for (int round = 0; round < 3; round++) {
        DL_FN(dl_lines) b = {.d = dl_float_to_half(d), .dmin = dl_float_to_half(dmin)};
        for (int j = 0; j < 8; j++) DL_FN(dl_choose)(x + 32 * j, w + 32 * j, s[j], m[j], j, &g, &b);
        if (b.error < best.error) best = b;
        if (!DL_FN(dl_refit)(x, w, &g, &b, &d, &dmin)) break;
    }
    DL_FN(dl_put_lines)(&best, dst);
    for (int j = 0; j < 8; j++)
        DL_FN(dl_put_nearest)(x + 32 * j, 32, dl_half_to_float(best.d) * (float)best.scale[j],
                              -dl_half_to_float(best.dmin) * (float)best.min[j], &g, q + 32 * j);
    return !(best.error < INFINITY);
}

/* Low four bits of q[256]: those of lines 2 i and 2 i + 1 share 32 bytes. */
DL_INLINE void DL_FN(dl_put_low)(const int8_t *q, uint8_t *dst)
{
    for (int i = 0; i < 128; i++) {
        const int8_t *p = q + i / 32 * 64 + i % 32;
        dst[i] = (uint8_t)((p[0] & 15) | (p[32] & 15) << 4);
    }
}

DL_INLINE int DL_FN(dl_search_q4k)(const float *x, const float *w, uint8_t *dst)
{
    int8_t q[256];
    int bad = DL_FN(dl_search_lines)(x, w, 15.0f, q, dst);
    DL_FN(dl_put_low)(q, dst + 16);
    return bad;
}

DL_INLINE int DL_FN(dl_search_q5k)(const float *x, const float *w, uint8_t *dst)
{
    int8_t q[256];
    int bad = DL_FN(dl_search_lines)(x, w, 31.0f, q, dst);
    memset(dst + 16, 0, 32);
    for (int i = 0; i < 256; i++) dst[16 + i % 32] |= (uint8_t)(q[i] >> 4 << i / 32);
    DL_FN(dl_put_low)(q, dst + 48);
    return bad;
}

/* Scales s[16] as d times integers in -128..127, which become scale[16]. Returns the error; d
 * becomes that of least error for these integers. */
DL_INLINE float DL_FN(dl_sixteenths)(const float *x, const float *w, const float *s,
                                     const DL_FN(dl_grid) *g, float *d, int8_t *scale)
{
    float inverse = DL_FN(dl_inverse)(*d), error = 0.0f, xq = 0.0f, qq = 0.0f;
    for (int j = 0; j < 16; j++) {
        float near = rintf(s[j] * inverse);
        near = near < -128.0f ? -128.0f : near > 127.0f ? 127.0f : near;
        scale[j] = (int8_t)near;
        error += DL_FN(dl_error)(x + 16 * j, w + 16 * j, 16, *d * near, 0.0f, g);
        DL_FN(dl_moments) t = DL_FN(dl_moments_of)(x + 16 * j, w + 16 * j, 16,
                                                   DL_FN(dl_inverse)(*d * near), 0.0f, g);
        xq += near * t.xq, qq += near * near * t.qq;
    }
    *d = qq > 0.0f ? xq / qq : 0.0f;
    return error;
}

/* ql[128], qh[64], 16 scales of one byte, d. x = d scale (q - 32); a scale is for 16 numbers. */
DL_INLINE int DL_FN(dl_search_q6k)(const float *x, const float *w, uint8_t *dst)
{
    DL_FN(dl_grid) g = {-32.0f, 31.0f, 0};
    DL_FN(dl_reach) r = {0.9f, 1.05f, 6};
    float s[16], best = INFINITY;
    int8_t q[256], scale[16];
    for (int j = 0; j < 16; j++) s[j] = DL_FN(dl_fit_scale)(x + 16 * j, w + 16 * j, 16, &g, &r);
    float d = DL_FN(dl_extreme)(s, 16) / -128.0f;
    int bad = 0;
    for (int round = 0; round < 3; round++) {
        uint16_t half = dl_float_to_half(d);
        d = dl_half_to_float(half);
        float error = DL_FN(dl_sixteenths)(x, w, s, &g, &d, scale);
        if (error < best) best = error, memcpy(dst + 192, scale, 16), memcpy(dst + 208, &half, 2);
    }
    if (!(best < INFINITY)) return 1;
    d = DL_FN(dl_scale_at)(dst + 208);
    for (int j = 0; j < 16; j++)
        DL_FN(dl_put_nearest)(x + 16 * j, 16, d * (float)(int8_t)dst[192 + j], 0.0f, &g, q + 16 * j);
    for (int i = 0; i < 256; i++) q[i] = (int8_t)(q[i] + 32);
    for (int i = 0; i < 128; i++) {
        const int8_t *p = q + i / 64 * 128 + i % 64;
        dst[i] = (uint8_t)((p[0] & 15) | (p[64] & 15) << 4);
    }
    for (int i = 0; i < 64; i++) {
        const int8_t *p = q + i / 32 * 128 + i % 32;
        dst[128 + i] = (uint8_t)(p[0] >> 4 | p[32] >> 4 << 2 | p[64] >> 4 << 4 | p[96] >> 4 << 6);
    }
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
