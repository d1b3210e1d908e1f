/* The AVX-512 intrinsics that the kernels use, as pairs of AVX2 vectors or as loops. The 512-bit
 * types are replaced by our own, since compilers refuse them without AVX-512. */
#ifndef DL_EMULATED_AVX512_H
#define DL_EMULATED_AVX512_H
#include "emulated.h"

typedef struct { __m256 a, b; } dl_emulated512, dl_emulated_mask;
typedef struct { __m256i a, b; } dl_emulated512i;
#define __m512 dl_emulated512
#define __m512i dl_emulated512i
#define __mmask16 dl_emulated_mask

#define DL_NEW(name, type) static inline __attribute__((unused)) type dl_emulated_##name
#define DL_BOTH(type, op, ...) ((type){op(x.a, ##__VA_ARGS__), op(x.b, ##__VA_ARGS__)})
#define DL_TWO(name, type, op) \
    DL_NEW(name, type)(type x, type y) { return (type){op(x.a, y.a), op(x.b, y.b)}; }

DL_TWO(add_ps, __m512, _mm256_add_ps)
DL_TWO(sub_ps, __m512, _mm256_sub_ps)
DL_TWO(mul_ps, __m512, _mm256_mul_ps)
DL_TWO(div_ps, __m512, _mm256_div_ps)
DL_TWO(max_ps, __m512, _mm256_max_ps)
DL_TWO(min_ps, __m512, _mm256_min_ps)
DL_TWO(and_si512, __m512i, _mm256_and_si256)
DL_TWO(xor_si512, __m512i, _mm256_xor_si256)
DL_TWO(add_epi32, __m512i, _mm256_add_epi32)
DL_TWO(shuffle_epi8, __m512i, _mm256_shuffle_epi8)

DL_NEW(set1_ps, __m512)(float f) { return (__m512){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
DL_NEW(setzero_ps, __m512)(void) { return dl_emulated_set1_ps(0.0f); }
DL_NEW(set1_epi32, __m512i)(int i) { return (__m512i){_mm256_set1_epi32(i), _mm256_set1_epi32(i)}; }
DL_NEW(set1_epi8, __m512i)(char i) { return (__m512i){_mm256_set1_epi8(i), _mm256_set1_epi8(i)}; }
DL_NEW(loadu_ps, __m512)(const float *p) { return (__m512){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
DL_NEW(storeu_ps, void)(float *p, __m512 x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
DL_NEW(loadu_si512, __m512i)(const void *p)
{
    const __m256i *v = p;
    return (__m512i){_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
DL_NEW(storeu_si512, void)(void *p, __m512i x)
{
    __m256i *v = p;
    _mm256_storeu_si256(v, x.a), _mm256_storeu_si256(v + 1, x.b);
}
DL_NEW(broadcast_i32x4, __m512i)(__m128i x)
{ return (__m512i){_mm256_broadcastsi128_si256(x), _mm256_broadcastsi128_si256(x)}; }
DL_NEW(fmadd_ps, __m512)(__m512 x, __m512 y, __m512 z)
{ return (__m512){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
DL_NEW(cvtph_ps, __m512)(__m256i h)
{ return (__m512){_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))}; }
DL_NEW(cvtps_ph, __m256i)(__m512 x, int rounding)
{
    (void)rounding;
    return _mm256_set_m128i(_mm256_cvtps_ph(x.b, 0), _mm256_cvtps_ph(x.a, 0));
}
DL_NEW(cvtepi32_ps, __m512)(__m512i x) { return DL_BOTH(__m512, _mm256_cvtepi32_ps); }
DL_NEW(cvtps_epi32, __m512i)(__m512 x) { return DL_BOTH(__m512i, _mm256_cvtps_epi32); }
DL_NEW(castsi512_ps, __m512)(__m512i x) { return DL_BOTH(__m512, _mm256_castsi256_ps); }
DL_NEW(srli_epi16, __m512i)(__m512i x, int n) { return DL_BOTH(__m512i, _mm256_srli_epi16, n); }
DL_NEW(slli_epi32, __m512i)(__m512i x, int n) { return DL_BOTH(__m512i, _mm256_slli_epi32, n); }
DL_NEW(roundscale_ps, __m512)(__m512 x, int n) { (void)n; return DL_BOTH(__m512, _mm256_round_ps, 8); }
DL_NEW(abs_ps, __m512)(__m512 x)
{
    __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return DL_BOTH(__m512, _mm256_and_ps, mask);
}
DL_NEW(cmp_ps_mask, __mmask16)(__m512 x, __m512 y, int order)
{
    (void)order;
    return (__mmask16){_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)};
}
DL_NEW(maskz_mov_ps, __m512)(__mmask16 m, __m512 x)
{ return (__m512){_mm256_and_ps(m.a, x.a), _mm256_and_ps(m.b, x.b)}; }
DL_NEW(castps512_ps256, __m256)(__m512 x) { return x.a; }
DL_NEW(extractf32x8_ps, __m256)(__m512 x, int half) { return half ? x.b : x.a; }
DL_NEW(reduce_max_ps, float)(__m512 x)
{
    float f[16], most;
    dl_emulated_storeu_ps(f, x);
    most = f[0];
    for (int i = 1; i < 16; i++) most = f[i] > most ? f[i] : most;
    return most;
}
DL_NEW(cvtsepi32_epi8, __m128i)(__m512i x)
{
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
DL_NEW(cvtsepi32_epi16, __m256i)(__m512i x)
{ return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8); }
DL_NEW(cvtepi8_epi16, __m512i)(__m256i x)
{
    return (__m512i){_mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)),
                     _mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1))};
}
DL_NEW(cvtepu16_epi32, __m512i)(__m256i x)
{
    return (__m512i){_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                     _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))};
}
DL_NEW(cvtepu8_epi32, __m512i)(__m128i x)
{ return (__m512i){_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))}; }
DL_NEW(cvtepi8_epi32, __m512i)(__m128i x)
{ return (__m512i){_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))}; }
DL_NEW(dpwssd_epi32, __m512i)(__m512i x, __m512i y, __m512i z)
{
    return (__m512i){_mm256_add_epi32(x.a, _mm256_madd_epi16(y.a, z.a)),
                     _mm256_add_epi32(x.b, _mm256_madd_epi16(y.b, z.b))};
}
DL_NEW(swap_quarters, __m512)(__m512 x, int n)
{
    if (n == 0x4e) return (__m512){x.b, x.a};
    return (__m512){_mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1)};
}
DL_NEW(dpbusd_epi32, __m512i)(__m512i x, __m512i y, __m512i z)
{ return (__m512i){dl_emulated_dpbusd256(x.a, y.a, z.a), dl_emulated_dpbusd256(x.b, y.b, z.b)}; }

#undef _mm512_add_ps
#define _mm512_add_ps dl_emulated_add_ps
#undef _mm512_sub_ps
#define _mm512_sub_ps dl_emulated_sub_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps dl_emulated_mul_ps
#undef _mm512_div_ps
#define _mm512_div_ps dl_emulated_div_ps
#undef _mm512_max_ps
#define _mm512_max_ps dl_emulated_max_ps
#undef _mm512_min_ps
#define _mm512_min_ps dl_emulated_min_ps
#undef _mm512_and_si512
#define _mm512_and_si512 dl_emulated_and_si512
#undef _mm512_xor_si512
#define _mm512_xor_si512 dl_emulated_xor_si512
#undef _mm512_add_epi32
#define _mm512_add_epi32 dl_emulated_add_epi32
#undef _mm512_shuffle_epi8
#define _mm512_shuffle_epi8 dl_emulated_shuffle_epi8
#undef _mm512_set1_ps
#define _mm512_set1_ps dl_emulated_set1_ps
#undef _mm512_setzero_ps
#define _mm512_setzero_ps dl_emulated_setzero_ps
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 dl_emulated_set1_epi32
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 dl_emulated_set1_epi8
#undef _mm512_loadu_ps
#define _mm512_loadu_ps dl_emulated_loadu_ps
#undef _mm512_storeu_ps
#define _mm512_storeu_ps dl_emulated_storeu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 dl_emulated_loadu_si512
#undef _mm512_storeu_si512
#define _mm512_storeu_si512 dl_emulated_storeu_si512
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 dl_emulated_broadcast_i32x4
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps dl_emulated_fmadd_ps
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps dl_emulated_cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph dl_emulated_cvtps_ph
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps dl_emulated_cvtepi32_ps
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 dl_emulated_cvtps_epi32
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps dl_emulated_castsi512_ps
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 dl_emulated_srli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 dl_emulated_slli_epi32
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps dl_emulated_roundscale_ps
#undef _mm512_abs_ps
#define _mm512_abs_ps dl_emulated_abs_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask dl_emulated_cmp_ps_mask
#undef _mm512_maskz_mov_ps
#define _mm512_maskz_mov_ps dl_emulated_maskz_mov_ps
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 dl_emulated_castps512_ps256
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps dl_emulated_extractf32x8_ps
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps dl_emulated_reduce_max_ps
#undef _mm512_cvtsepi32_epi8
#define _mm512_cvtsepi32_epi8 dl_emulated_cvtsepi32_epi8
#undef _mm512_cvtsepi32_epi16
#define _mm512_cvtsepi32_epi16 dl_emulated_cvtsepi32_epi16
#undef _mm512_cvtepi8_epi16
#define _mm512_cvtepi8_epi16 dl_emulated_cvtepi8_epi16
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 dl_emulated_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 dl_emulated_cvtepu8_epi32
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 dl_emulated_cvtepi8_epi32
#undef _mm512_dpwssd_epi32
#define _mm512_dpwssd_epi32 dl_emulated_dpwssd_epi32
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 dl_emulated_dpbusd_epi32
#undef _mm512_permute_ps
#define _mm512_permute_ps(x, n) ((__m512){_mm256_permute_ps((x).a, n), _mm256_permute_ps((x).b, n)})
#undef _mm512_shuffle_f32x4 /* of a register with itself: quarters 1 or 2 apart change places */
#define _mm512_shuffle_f32x4(x, y, n) dl_emulated_swap_quarters(x, n)
#undef DL_NEW
#undef DL_BOTH
#undef DL_TWO
#endif
