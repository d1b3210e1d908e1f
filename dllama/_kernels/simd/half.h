/* Conversion to and from IEEE 754 half precision in portable C, rounding to nearest even. */
#ifndef DL_HALF_H
#define DL_HALF_H

#include <stdint.h>
#include <string.h>

static inline __attribute__((unused)) float dl_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff, bits;
    float value;
    if (rest >= 0x7c00) { /* infinity, or NaN made quiet */
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0);
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    if (rest < 0x400) { /* zero and subnormals: a multiple of 2^-24 */
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    bits = sign | ((rest << 13) + 0x38000000);
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline __attribute__((unused)) uint16_t dl_float_to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff));
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds beyond 65504 */
    if (bits < 0x38800000) {
        /* Adding 0.5 leaves a multiple of 2^-24 in the low bits, rounded by the addition. */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xc8000fff + (bits >> 13 & 1); /* rebias the exponent, round half to even */
    return (uint16_t)(sign | bits >> 13);
}

#endif
