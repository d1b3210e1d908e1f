/* Vectors of 16 floats in portable C; they define the operations for all instruction sets.
 *
 * hsum adds lanes i and i+8, then i+4, i+2, i+1: the same tree on every instruction set.
 */
#ifndef DL_VEC_BASELINE_H
#define DL_VEC_BASELINE_H
#include <math.h>
#include "half.h"
#include "isa.h"

typedef struct { float f[16]; } v16_baseline;
/* Bytes in a register, in pairs. */
typedef uint16_t dl_lanes_baseline __attribute__((vector_size(16)));

#define DL_EACH(expr) v16_baseline r; for (int i = 0; i < 16; i++) r.f[i] = (expr); return r

DL_INLINE v16_baseline v16_set1_baseline(float x) { DL_EACH(x); }
DL_INLINE v16_baseline v16_load_baseline(const float *p) { DL_EACH(p[i]); }
DL_INLINE void v16_store_baseline(float *p, v16_baseline a) { memcpy(p, a.f, sizeof a.f); }
DL_INLINE v16_baseline v16_load_half_baseline(const uint16_t *p) { DL_EACH(dl_half_to_float(p[i])); }
DL_INLINE v16_baseline v16_add_baseline(v16_baseline a, v16_baseline b) { DL_EACH(a.f[i] + b.f[i]); }
DL_INLINE v16_baseline v16_sub_baseline(v16_baseline a, v16_baseline b) { DL_EACH(a.f[i] - b.f[i]); }
DL_INLINE v16_baseline v16_mul_baseline(v16_baseline a, v16_baseline b) { DL_EACH(a.f[i] * b.f[i]); }
DL_INLINE v16_baseline v16_div_baseline(v16_baseline a, v16_baseline b) { DL_EACH(a.f[i] / b.f[i]); }
/* Not inline: it is long where it is not an instruction. */
static __attribute__((noinline, unused)) v16_baseline v16_fma_baseline(v16_baseline a, v16_baseline b, v16_baseline c)
{ DL_EACH(dl_fmaf(a.f[i], b.f[i], c.f[i])); }
DL_INLINE v16_baseline v16_max_baseline(v16_baseline a, v16_baseline b)
{ DL_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]); }
DL_INLINE v16_baseline v16_min_baseline(v16_baseline a, v16_baseline b)
{ DL_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }
DL_INLINE v16_baseline v16_abs_baseline(v16_baseline a) { DL_EACH(fabsf(a.f[i])); }
DL_INLINE v16_baseline v16_round_baseline(v16_baseline a) { DL_EACH(rintf(a.f[i])); }
/* v where a > b, else 0 */
DL_INLINE v16_baseline v16_where_gt_baseline(v16_baseline a, v16_baseline b, v16_baseline v)
{ DL_EACH(a.f[i] > b.f[i] ? v.f[i] : 0.0f); }
/* a * 2^n for integral n in -126..127 */
DL_INLINE v16_baseline v16_scale2_baseline(v16_baseline a, v16_baseline n)
{
    v16_baseline r;
    for (int i = 0; i < 16; i++) {
        int32_t bits = ((int32_t)n.f[i] + 127) << 23;
        float power;
        memcpy(&power, &bits, sizeof power);
        r.f[i] = a.f[i] * power;
    }
    return r;
}
/* rounded lanes in -128..127 as int8 */
DL_INLINE void v16_store_i8_baseline(int8_t *p, v16_baseline a)
{ for (int i = 0; i < 16; i++) p[i] = (int8_t)(int32_t)a.f[i]; }
DL_INLINE float v16_hmax_baseline(v16_baseline a)
{
    float m = a.f[0];
    for (int i = 1; i < 16; i++) m = a.f[i] > m ? a.f[i] : m;
    return m;
}
DL_INLINE float v16_hsum_baseline(v16_baseline a)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.f[i] += a.f[i + half];
    return a.f[0];
}
DL_INLINE void v16_store_half_baseline(uint16_t *p, v16_baseline a)
{ for (int i = 0; i < 16; i++) p[i] = dl_float_to_half(a.f[i]); }
DL_INLINE v16_baseline v16_load_bf16_baseline(const uint16_t *p)
{
    v16_baseline r;
    for (int i = 0; i < 16; i++) {
        uint32_t bits = (uint32_t)p[i] << 16;
        memcpy(r.f + i, &bits, sizeof bits);
    }
    return r;
}
DL_INLINE v16_baseline v16_load_u8_baseline(const uint8_t *p) { DL_EACH((float)p[i]); }
DL_INLINE v16_baseline v16_load_i8_baseline(const int8_t *p) { DL_EACH((float)p[i]); }
/* bytes[64] = table[bytes] */
DL_INLINE void v16_lookup_baseline(const int8_t *table, uint8_t *bytes)
{ for (int i = 0; i < 64; i++) bytes[i] = (uint8_t)table[bytes[i]]; }
/* rounded lanes in -32768..32767 as int16 */
DL_INLINE void v16_store_i16_baseline(int16_t *p, v16_baseline a)
{ for (int i = 0; i < 16; i++) p[i] = (int16_t)(int32_t)a.f[i]; }
#undef DL_EACH
/* The Walsh-Hadamard transform: lanes 1, then 2, 4 and 8 apart become their sum and difference. */
DL_INLINE v16_baseline v16_hadamard_baseline(v16_baseline a)
{
    for (int apart = 1; apart < 16; apart *= 2)
        for (int i = 0; i < 16; i++) {
            if (i & apart) continue;
            float x = a.f[i], y = a.f[i + apart];
            a.f[i] = x + y, a.f[i + apart] = x - y;
        }
    return a;
}

/* 16 sums of int32, and 16 pairs of int8 that are added to them. */
typedef struct { int32_t i[16]; } v16_sums_baseline;
typedef struct { int16_t i[32]; } v16_pairs_baseline;

DL_INLINE v16_sums_baseline v16_zero_sums_baseline(void) { return (v16_sums_baseline){{0}}; }
DL_INLINE v16_pairs_baseline v16_load_pairs_baseline(const int8_t *p)
{
    v16_pairs_baseline r;
    for (int i = 0; i < 32; i++) r.i[i] = p[i];
    return r;
}
/* lane i of s + p[2 i] * w[0] + p[2 i + 1] * w[1] */
DL_INLINE v16_sums_baseline v16_dot_baseline(v16_sums_baseline s, v16_pairs_baseline p, const int16_t *w)
{
    for (int i = 0; i < 16; i++) s.i[i] += p.i[2 * i] * w[0] + p.i[2 * i + 1] * w[1];
    return s;
}
/* lane i of s + p[2 i] * w[2 i] + p[2 i + 1] * w[2 i + 1] */
DL_INLINE v16_sums_baseline v16_dot_lanes_baseline(v16_sums_baseline s, v16_pairs_baseline p, const int16_t *w)
{
    for (int i = 0; i < 16; i++) s.i[i] += p.i[2 * i] * w[2 * i] + p.i[2 * i + 1] * w[2 * i + 1];
    return s;
}
DL_INLINE v16_baseline v16_float_baseline(v16_sums_baseline s)
{
    v16_baseline r;
    for (int i = 0; i < 16; i++) r.f[i] = (float)s.i[i];
    return r;
}
#endif
