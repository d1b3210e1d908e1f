/* Instruction sets and the macros that let one source serve all of them.
 *
 * A header `begin_ISA.h` opens a region compiled for that instruction set and
 * names its functions: DL_FN(x) is x_ISA, V(op) is the op on vectors of 16
 * floats (vec_ISA.h). `end.h` closes the region. Every ISA gives the same bits.
 */
#ifndef DL_ISA_H
#define DL_ISA_H

#include <stdint.h>
#include <string.h>

enum { DL_ISA_BASELINE = 0, DL_ISA_AVX2 = 1, DL_ISA_AVX512 = 2, DL_ISA_COUNT = 3 };

#if defined(__x86_64__)
#define DL_X86 1
#include <immintrin.h>
#else
#define DL_X86 0
#endif

#define DL_INLINE static inline __attribute__((always_inline, unused))
/* Before a loop over tokens, words or rows whose arrays must live in registers. */
#define DL_UNROLL _Pragma("GCC unroll 16")

#define DL_CAT2(a, b) a##_##b
#define DL_CAT(a, b) DL_CAT2(a, b)
#define DL_FN(name) DL_CAT(name, DL_SUFFIX)
#define V(op) DL_CAT(v16_##op, DL_SUFFIX)
#define VT DL_CAT(v16, DL_SUFFIX)

/* Rounded once, like the hardware's; libm only where the double sum is a tie. */
DL_INLINE float dl_fmaf(float a, float b, float c)
{
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    double sum = (double)a * (double)b + (double)c;
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    uint64_t magnitude = bits & 0x7fffffffffffffffULL;
    if ((bits & 0x1fffffffULL) == 0x10000000ULL || magnitude < 0x3880000000000000ULL)
        return __builtin_fmaf(a, b, c);
    return (float)sum;
#endif
}

#endif
