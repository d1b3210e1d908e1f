/* vpdpbusd in C: each 32-bit lane adds four products of unsigned a and signed b. */
#ifndef DL_EMULATED_H
#define DL_EMULATED_H
#include <immintrin.h>
#include <string.h>

static inline void dl_dpbusd(int lanes, const int32_t *sum, const uint8_t *a, const int8_t *b, int32_t *out)
{
    for (int i = 0; i < lanes; i++) {
        out[i] = sum[i];
        for (int j = 0; j < 4; j++) out[i] += a[4 * i + j] * b[4 * i + j];
    }
}

#define DL_DPBUSD(bits, type, lanes)                                              \
    static inline type dl_emulated_dpbusd##bits(type sum, type a, type b)         \
    {                                                                             \
        int32_t s[lanes], out[lanes];                                             \
        uint8_t u[4 * lanes];                                                     \
        int8_t v[4 * lanes];                                                      \
        memcpy(s, &sum, sizeof s), memcpy(u, &a, sizeof u), memcpy(v, &b, sizeof v); \
        dl_dpbusd(lanes, s, u, v, out);                                           \
        memcpy(&sum, out, sizeof out);                                            \
        return sum;                                                               \
    }

DL_DPBUSD(256, __m256i, 8)
#undef DL_DPBUSD
#endif
