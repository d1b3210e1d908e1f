/* Vectors of 16 floats as two 256-bit registers. vec_baseline.h defines the operations. */
#ifndef DL_VEC_AVX2_H
#define DL_VEC_AVX2_H
#include "isa.h"

typedef struct { __m256 a, b; } v16_avx2;
/* Bytes in a register, in pairs. */
typedef uint16_t dl_lanes_avx2 __attribute__((vector_size(32)));
#define DL_PAIR(x, y) return (v16_avx2){(x), (y)}

DL_INLINE v16_avx2 v16_set1_avx2(float x) { DL_PAIR(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
DL_INLINE v16_avx2 v16_load_avx2(const float *p) { DL_PAIR(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
DL_INLINE void v16_store_avx2(float *p, v16_avx2 x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
DL_INLINE v16_avx2 v16_load_half_avx2(const uint16_t *p)
{
    DL_PAIR(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))));
}
DL_INLINE v16_avx2 v16_add_avx2(v16_avx2 x, v16_avx2 y) { DL_PAIR(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
DL_INLINE v16_avx2 v16_sub_avx2(v16_avx2 x, v16_avx2 y) { DL_PAIR(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
DL_INLINE v16_avx2 v16_mul_avx2(v16_avx2 x, v16_avx2 y) { DL_PAIR(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
DL_INLINE v16_avx2 v16_div_avx2(v16_avx2 x, v16_avx2 y) { DL_PAIR(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
DL_INLINE v16_avx2 v16_fma_avx2(v16_avx2 x, v16_avx2 y, v16_avx2 z)
{ DL_PAIR(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
DL_INLINE v16_avx2 v16_max_avx2(v16_avx2 x, v16_avx2 y) { DL_PAIR(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
DL_INLINE v16_avx2 v16_min_avx2(v16_avx2 x, v16_avx2 y) { DL_PAIR(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
DL_INLINE v16_avx2 v16_abs_avx2(v16_avx2 x)
{
    __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    DL_PAIR(_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask));
}
DL_INLINE v16_avx2 v16_round_avx2(v16_avx2 x)
{ DL_PAIR(_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)); }
DL_INLINE v16_avx2 v16_where_gt_avx2(v16_avx2 x, v16_avx2 y, v16_avx2 v)
{
    DL_PAIR(_mm256_and_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), v.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ), v.b));
}
DL_INLINE __m256 dl_power2_avx2(__m256 n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
DL_INLINE v16_avx2 v16_scale2_avx2(v16_avx2 x, v16_avx2 n)
{ DL_PAIR(_mm256_mul_ps(x.a, dl_power2_avx2(n.a)), _mm256_mul_ps(x.b, dl_power2_avx2(n.b))); }
DL_INLINE void v16_store_i8_avx2(int8_t *p, v16_avx2 x)
{
    __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    w = _mm256_permute4x64_epi64(w, 0xd8);
    __m128i r = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)p, r);
}
DL_INLINE float v16_hmax_avx2(v16_avx2 x)
{
    __m256 m = _mm256_max_ps(x.a, x.b);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
DL_INLINE float v16_hsum_avx2(v16_avx2 x)
{
    __m256 m = _mm256_add_ps(x.a, x.b);
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
DL_INLINE void v16_store_half_avx2(uint16_t *p, v16_avx2 x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, 0));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, 0));
}
DL_INLINE __m256 dl_widen_bf16_avx2(const uint16_t *p)
{
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
DL_INLINE v16_avx2 v16_load_bf16_avx2(const uint16_t *p) { DL_PAIR(dl_widen_bf16_avx2(p), dl_widen_bf16_avx2(p + 8)); }
DL_INLINE v16_avx2 v16_load_u8_avx2(const uint8_t *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    DL_PAIR(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(x, x))));
}
DL_INLINE v16_avx2 v16_load_i8_avx2(const int8_t *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    DL_PAIR(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x))));
}
DL_INLINE void v16_lookup_avx2(const int8_t *table, uint8_t *bytes)
{
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    DL_UNROLL for (int i = 0; i < 64; i += 32) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(bytes + i));
        _mm256_storeu_si256((__m256i *)(bytes + i), _mm256_shuffle_epi8(t, x));
    }
}
DL_INLINE void v16_store_i16_avx2(int16_t *p, v16_avx2 x)
{
    __m256i w = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(w, 0xd8));
}

/* Each lane plus or minus the one that is 1, 2 or 4 lanes apart; products with 1 and -1 are exact. */
DL_INLINE __m256 dl_hadamard8_avx2(__m256 x)
{
    __m256 ones = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), twos = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    __m256 fours = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    x = _mm256_fmadd_ps(x, ones, _mm256_permute_ps(x, 0xb1));
    x = _mm256_fmadd_ps(x, twos, _mm256_permute_ps(x, 0x4e));
    return _mm256_fmadd_ps(x, fours, _mm256_permute2f128_ps(x, x, 1));
}
DL_INLINE v16_avx2 v16_hadamard_avx2(v16_avx2 x)
{
    __m256 a = dl_hadamard8_avx2(x.a), b = dl_hadamard8_avx2(x.b);
    DL_PAIR(_mm256_add_ps(a, b), _mm256_sub_ps(a, b));
}

typedef struct { __m256i a, b; } v16_sums_avx2, v16_pairs_avx2;

DL_INLINE v16_sums_avx2 v16_zero_sums_avx2(void)
{ return (v16_sums_avx2){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
DL_INLINE v16_pairs_avx2 v16_load_pairs_avx2(const int8_t *p)
{
    const __m128i *half = (const __m128i *)p;
    return (v16_pairs_avx2){_mm256_cvtepi8_epi16(_mm_loadu_si128(half)),
                            _mm256_cvtepi8_epi16(_mm_loadu_si128(half + 1))};
}
DL_INLINE v16_sums_avx2 v16_dot_avx2(v16_sums_avx2 s, v16_pairs_avx2 p, const int16_t *w)
{
    int32_t both;
    memcpy(&both, w, sizeof both);
    __m256i pair = _mm256_set1_epi32(both);
    s.a = _mm256_add_epi32(s.a, _mm256_madd_epi16(p.a, pair));
    s.b = _mm256_add_epi32(s.b, _mm256_madd_epi16(p.b, pair));
    __asm__("" : "+x"(s.a), "+x"(s.b)); /* GCC would spill a sum of four rows in each step */
    return s;
}
DL_INLINE v16_sums_avx2 v16_dot_lanes_avx2(v16_sums_avx2 s, v16_pairs_avx2 p, const int16_t *w)
{
    const __m256i *half = (const __m256i *)w;
    s.a = _mm256_add_epi32(s.a, _mm256_madd_epi16(p.a, _mm256_loadu_si256(half)));
    s.b = _mm256_add_epi32(s.b, _mm256_madd_epi16(p.b, _mm256_loadu_si256(half + 1)));
    return s;
}
DL_INLINE v16_avx2 v16_float_avx2(v16_sums_avx2 s) { DL_PAIR(_mm256_cvtepi32_ps(s.a), _mm256_cvtepi32_ps(s.b)); }
#undef DL_PAIR
#endif
