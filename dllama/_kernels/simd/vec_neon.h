/* Vectors of 16 floats as four 128-bit registers. vec_baseline.h defines the operations. */
#ifndef DL_VEC_NEON_H
#define DL_VEC_NEON_H
#include "isa.h"

typedef struct { float32x4_t q[4]; } v16_neon;
/* Bytes in a register, in pairs. */
typedef uint16_t dl_lanes_neon __attribute__((vector_size(16)));

#define DL_EACH(expr) v16_neon r; DL_UNROLL for (int i = 0; i < 4; i++) r.q[i] = (expr); return r

DL_INLINE v16_neon v16_set1_neon(float x) { DL_EACH(vdupq_n_f32(x)); }
DL_INLINE v16_neon v16_load_neon(const float *p) { DL_EACH(vld1q_f32(p + 4 * i)); }
DL_INLINE void v16_store_neon(float *p, v16_neon x)
{ DL_UNROLL for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.q[i]); }
DL_INLINE v16_neon v16_load_half_neon(const uint16_t *p)
{ DL_EACH(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))); }
DL_INLINE void v16_store_half_neon(uint16_t *p, v16_neon x)
{
    DL_UNROLL for (int i = 0; i < 4; i++)
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.q[i])));
}
DL_INLINE v16_neon v16_add_neon(v16_neon x, v16_neon y) { DL_EACH(vaddq_f32(x.q[i], y.q[i])); }
DL_INLINE v16_neon v16_sub_neon(v16_neon x, v16_neon y) { DL_EACH(vsubq_f32(x.q[i], y.q[i])); }
DL_INLINE v16_neon v16_mul_neon(v16_neon x, v16_neon y) { DL_EACH(vmulq_f32(x.q[i], y.q[i])); }
DL_INLINE v16_neon v16_div_neon(v16_neon x, v16_neon y) { DL_EACH(vdivq_f32(x.q[i], y.q[i])); }
DL_INLINE v16_neon v16_fma_neon(v16_neon x, v16_neon y, v16_neon z)
{ DL_EACH(vfmaq_f32(z.q[i], x.q[i], y.q[i])); }
/* Not fmax and fmin, which differ for zeros of different signs and for NaN. */
DL_INLINE v16_neon v16_max_neon(v16_neon x, v16_neon y)
{ DL_EACH(vbslq_f32(vcgtq_f32(x.q[i], y.q[i]), x.q[i], y.q[i])); }
DL_INLINE v16_neon v16_min_neon(v16_neon x, v16_neon y)
{ DL_EACH(vbslq_f32(vcltq_f32(x.q[i], y.q[i]), x.q[i], y.q[i])); }
DL_INLINE v16_neon v16_abs_neon(v16_neon x) { DL_EACH(vabsq_f32(x.q[i])); }
DL_INLINE v16_neon v16_round_neon(v16_neon x) { DL_EACH(vrndnq_f32(x.q[i])); }
DL_INLINE v16_neon v16_where_gt_neon(v16_neon x, v16_neon y, v16_neon v)
{
    DL_EACH(vreinterpretq_f32_u32(
        vandq_u32(vcgtq_f32(x.q[i], y.q[i]), vreinterpretq_u32_f32(v.q[i]))));
}
DL_INLINE float32x4_t dl_power2_neon(float32x4_t n)
{
    int32x4_t e = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(e, 23));
}
DL_INLINE v16_neon v16_scale2_neon(v16_neon x, v16_neon n)
{ DL_EACH(vmulq_f32(x.q[i], dl_power2_neon(n.q[i]))); }
DL_INLINE int16x8_t dl_narrow_neon(float32x4_t x, float32x4_t y)
{ return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x)), vqmovn_s32(vcvtnq_s32_f32(y))); }
DL_INLINE void v16_store_i8_neon(int8_t *p, v16_neon x)
{
    vst1_s8(p, vqmovn_s16(dl_narrow_neon(x.q[0], x.q[1])));
    vst1_s8(p + 8, vqmovn_s16(dl_narrow_neon(x.q[2], x.q[3])));
}
DL_INLINE float v16_hmax_neon(v16_neon x)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.q[0], x.q[1]), vmaxq_f32(x.q[2], x.q[3])));
}
DL_INLINE float v16_hsum_neon(v16_neon x)
{
    float32x4_t m = vaddq_f32(vaddq_f32(x.q[0], x.q[2]), vaddq_f32(x.q[1], x.q[3]));
    float32x2_t h = vadd_f32(vget_low_f32(m), vget_high_f32(m));
    return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
DL_INLINE v16_neon v16_load_bf16_neon(const uint16_t *p)
{ DL_EACH(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16))); }
DL_INLINE v16_neon v16_load_u8_neon(const uint8_t *p)
{
    uint8x16_t x = vld1q_u8(p);
    uint16x8_t half[2] = {vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x)};
    DL_EACH(vcvtq_f32_u32(i % 2 ? vmovl_high_u16(half[i / 2]) : vmovl_u16(vget_low_u16(half[i / 2]))));
}
DL_INLINE v16_neon v16_load_i8_neon(const int8_t *p)
{
    int8x16_t x = vld1q_s8(p);
    int16x8_t half[2] = {vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)};
    DL_EACH(vcvtq_f32_s32(i % 2 ? vmovl_high_s16(half[i / 2]) : vmovl_s16(vget_low_s16(half[i / 2]))));
}
DL_INLINE void v16_lookup_neon(const int8_t *table, uint8_t *bytes)
{
    int8x16_t t = vld1q_s8(table);
    DL_UNROLL for (int i = 0; i < 64; i += 16)
        vst1q_s8((int8_t *)bytes + i, vqtbl1q_s8(t, vld1q_u8(bytes + i)));
}
DL_INLINE void v16_store_i16_neon(int16_t *p, v16_neon x)
{
    vst1q_s16(p, dl_narrow_neon(x.q[0], x.q[1]));
    vst1q_s16(p + 8, dl_narrow_neon(x.q[2], x.q[3]));
}

/* Each lane plus or minus the one that is 1 or 2 lanes apart; products with 1 and -1 are exact. */
DL_INLINE float32x4_t dl_hadamard4_neon(float32x4_t x)
{
    const float ones[4] = {1, -1, 1, -1}, twos[4] = {1, 1, -1, -1};
    x = vfmaq_f32(vrev64q_f32(x), x, vld1q_f32(ones));
    return vfmaq_f32(vextq_f32(x, x, 2), x, vld1q_f32(twos));
}
DL_INLINE v16_neon v16_hadamard_neon(v16_neon x)
{
    DL_UNROLL for (int i = 0; i < 4; i++) x.q[i] = dl_hadamard4_neon(x.q[i]);
    v16_neon y = {{vaddq_f32(x.q[0], x.q[1]), vsubq_f32(x.q[0], x.q[1]),
                   vaddq_f32(x.q[2], x.q[3]), vsubq_f32(x.q[2], x.q[3])}};
    return (v16_neon){{vaddq_f32(y.q[0], y.q[2]), vaddq_f32(y.q[1], y.q[3]),
                       vsubq_f32(y.q[0], y.q[2]), vsubq_f32(y.q[1], y.q[3])}};
}

typedef struct { int32x4_t q[4]; } v16_sums_neon;
typedef struct { int16x8_t first[2], second[2]; } v16_pairs_neon;

DL_INLINE v16_sums_neon v16_zero_sums_neon(void)
{
    v16_sums_neon s;
    DL_UNROLL for (int i = 0; i < 4; i++) s.q[i] = vdupq_n_s32(0);
    return s;
}
DL_INLINE v16_pairs_neon v16_load_pairs_neon(const int8_t *p)
{
    int8x16x2_t x = vld2q_s8(p);
    return (v16_pairs_neon){{vmovl_s8(vget_low_s8(x.val[0])), vmovl_high_s8(x.val[0])},
                            {vmovl_s8(vget_low_s8(x.val[1])), vmovl_high_s8(x.val[1])}};
}
DL_INLINE v16_sums_neon v16_dot_neon(v16_sums_neon s, v16_pairs_neon p, const int16_t *w)
{
    DL_UNROLL for (int i = 0; i < 2; i++) {
        int32x4_t low = vmlal_n_s16(s.q[2 * i], vget_low_s16(p.first[i]), w[0]);
        int32x4_t high = vmlal_high_n_s16(s.q[2 * i + 1], p.first[i], w[0]);
        s.q[2 * i] = vmlal_n_s16(low, vget_low_s16(p.second[i]), w[1]);
        s.q[2 * i + 1] = vmlal_high_n_s16(high, p.second[i], w[1]);
    }
    return s;
}
DL_INLINE v16_sums_neon v16_dot_lanes_neon(v16_sums_neon s, v16_pairs_neon p, const int16_t *w)
{
    DL_UNROLL for (int i = 0; i < 2; i++) {
        int16x8x2_t x = vld2q_s16(w + 16 * i);
        int32x4_t low = vmlal_s16(s.q[2 * i], vget_low_s16(p.first[i]), vget_low_s16(x.val[0]));
        int32x4_t high = vmlal_high_s16(s.q[2 * i + 1], p.first[i], x.val[0]);
        s.q[2 * i] = vmlal_s16(low, vget_low_s16(p.second[i]), vget_low_s16(x.val[1]));
        s.q[2 * i + 1] = vmlal_high_s16(high, p.second[i], x.val[1]);
    }
    return s;
}
DL_INLINE v16_neon v16_float_neon(v16_sums_neon s) { DL_EACH(vcvtq_f32_s32(s.q[i])); }
#undef DL_EACH
#endif
