/* Vectors of 16 floats as one 512-bit register. vec_baseline.h defines the operations. */
#ifndef DL_VEC_AVX512_H
#define DL_VEC_AVX512_H
#include "isa.h"

typedef __m512 v16_avx512;
/* Bytes in a register, in pairs. */
typedef uint16_t dl_lanes_avx512 __attribute__((vector_size(64)));

DL_INLINE v16_avx512 v16_set1_avx512(float x) { return _mm512_set1_ps(x); }
DL_INLINE v16_avx512 v16_load_avx512(const float *p) { return _mm512_loadu_ps(p); }
DL_INLINE void v16_store_avx512(float *p, v16_avx512 x) { _mm512_storeu_ps(p, x); }
DL_INLINE v16_avx512 v16_load_half_avx512(const uint16_t *p)
{ return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
DL_INLINE void v16_store_half_avx512(uint16_t *p, v16_avx512 x)
{ _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, 0)); }
DL_INLINE v16_avx512 v16_add_avx512(v16_avx512 x, v16_avx512 y) { return _mm512_add_ps(x, y); }
DL_INLINE v16_avx512 v16_sub_avx512(v16_avx512 x, v16_avx512 y) { return _mm512_sub_ps(x, y); }
DL_INLINE v16_avx512 v16_mul_avx512(v16_avx512 x, v16_avx512 y) { return _mm512_mul_ps(x, y); }
DL_INLINE v16_avx512 v16_div_avx512(v16_avx512 x, v16_avx512 y) { return _mm512_div_ps(x, y); }
DL_INLINE v16_avx512 v16_fma_avx512(v16_avx512 x, v16_avx512 y, v16_avx512 z) { return _mm512_fmadd_ps(x, y, z); }
DL_INLINE v16_avx512 v16_max_avx512(v16_avx512 x, v16_avx512 y) { return _mm512_max_ps(x, y); }
DL_INLINE v16_avx512 v16_min_avx512(v16_avx512 x, v16_avx512 y) { return _mm512_min_ps(x, y); }
DL_INLINE v16_avx512 v16_abs_avx512(v16_avx512 x) { return _mm512_abs_ps(x); }
DL_INLINE v16_avx512 v16_round_avx512(v16_avx512 x) { return _mm512_roundscale_ps(x, 8); }
DL_INLINE v16_avx512 v16_where_gt_avx512(v16_avx512 x, v16_avx512 y, v16_avx512 v)
{ return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_GT_OQ), v); }
DL_INLINE v16_avx512 v16_scale2_avx512(v16_avx512 x, v16_avx512 n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(e, 23)));
}
DL_INLINE void v16_store_i8_avx512(int8_t *p, v16_avx512 x)
{ _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x))); }
DL_INLINE float v16_hmax_avx512(v16_avx512 x)
{ return _mm512_reduce_max_ps(x); }
DL_INLINE float v16_hsum_avx512(v16_avx512 x)
{
    __m256 m = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
DL_INLINE v16_avx512 v16_load_bf16_avx512(const uint16_t *p)
{
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
DL_INLINE v16_avx512 v16_load_u8_avx512(const uint8_t *p)
{ return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))); }
DL_INLINE v16_avx512 v16_load_i8_avx512(const int8_t *p)
{ return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
DL_INLINE void v16_lookup_avx512(const int8_t *table, uint8_t *bytes)
{
    __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
    _mm512_storeu_si512(bytes, _mm512_shuffle_epi8(t, _mm512_loadu_si512(bytes)));
}
DL_INLINE void v16_store_i16_avx512(int16_t *p, v16_avx512 x)
{ _mm256_storeu_si256((__m256i *)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x))); }

/* Each lane plus or minus the one that is 1, 2, 4 or 8 lanes apart; products with 1 and -1 are exact. */
DL_INLINE v16_avx512 v16_hadamard_avx512(v16_avx512 x)
{
    static const float signs[4][16] = {
        {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1}, {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
        {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1}, {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};
    x = _mm512_fmadd_ps(x, _mm512_loadu_ps(signs[0]), _mm512_permute_ps(x, 0xb1));
    x = _mm512_fmadd_ps(x, _mm512_loadu_ps(signs[1]), _mm512_permute_ps(x, 0x4e));
    x = _mm512_fmadd_ps(x, _mm512_loadu_ps(signs[2]), _mm512_shuffle_f32x4(x, x, 0xb1));
    return _mm512_fmadd_ps(x, _mm512_loadu_ps(signs[3]), _mm512_shuffle_f32x4(x, x, 0x4e));
}

typedef __m512i v16_sums_avx512, v16_pairs_avx512;

DL_INLINE v16_sums_avx512 v16_zero_sums_avx512(void) { return _mm512_set1_epi32(0); }
DL_INLINE v16_pairs_avx512 v16_load_pairs_avx512(const int8_t *p)
{ return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p)); }
DL_INLINE v16_sums_avx512 v16_dot_avx512(v16_sums_avx512 s, v16_pairs_avx512 p, const int16_t *w)
{
    int32_t both;
    memcpy(&both, w, sizeof both);
    return _mm512_dpwssd_epi32(s, p, _mm512_set1_epi32(both));
}
DL_INLINE v16_sums_avx512 v16_dot_lanes_avx512(v16_sums_avx512 s, v16_pairs_avx512 p, const int16_t *w)
{ return _mm512_dpwssd_epi32(s, p, _mm512_loadu_si512(w)); }
DL_INLINE v16_avx512 v16_float_avx512(v16_sums_avx512 s) { return _mm512_cvtepi32_ps(s); }
#endif
