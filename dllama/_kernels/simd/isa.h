/* Instruction sets, and macros to compile one source for all of them.
 *
 * A header `begin_ISA.h` opens a region that is compiled for that instruction set, and `end.h`
 * closes it. In the region, DL_FN(x) is x_ISA, V(op) is an operation on vectors of 16 floats
 * (VT) or integers (VSUMS, VPAIRS; vec_ISA.h), and DL_VFN(x) is x of the instruction set that the vectors come from. All ISAs give
 * the same bits.
 */
#ifndef DL_ISA_H
#define DL_ISA_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#define DL_X86 1
#define DL_ARM64 0
#include <immintrin.h>
#elif defined(__aarch64__)
#define DL_X86 0
#define DL_ARM64 1
#include <arm_neon.h>
#else
#define DL_X86 0
#define DL_ARM64 0
#endif

/* Whether the compiler knows AVX-VNNI. */
#if DL_X86 && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define DL_AVXVNNI 1
#define DL_ISA_AVXVNNI(X) X(avxvnni, avx2)
#else
#define DL_AVXVNNI 0
#define DL_ISA_AVXVNNI(X)
#endif

/* The instruction sets of this platform, slowest first, as X(isa, vec). Quantised tiles are those
 * of isa. Everything else is compiled once for each vec and shared. */
#if DL_X86
#define DL_ISAS(X) X(baseline, baseline) X(avx2, avx2) DL_ISA_AVXVNNI(X) X(avx512, avx512)
#elif DL_ARM64
#define DL_ISAS(X) X(baseline, baseline) X(neon, neon) X(dotprod, neon) X(i8mm, neon)
#else
#define DL_ISAS(X) X(baseline, baseline)
#endif

#define DL_ISA_INDEX(isa, vec) dl_isa_##isa,
enum { DL_ISAS(DL_ISA_INDEX) DL_ISA_COUNT };

#define DL_INLINE static inline __attribute__((always_inline, unused))
/* For loops over arrays that must stay in registers. */
#define DL_UNROLL_16 _Pragma("GCC unroll 16")
#define DL_UNROLL DL_UNROLL_16

#define DL_CAT2(a, b) a##_##b
#define DL_CAT(a, b) DL_CAT2(a, b)
#define DL_FN(name) DL_CAT(name, DL_SUFFIX)
#define DL_VFN(name) DL_CAT(name, DL_VECTORS)
#define V(op) DL_CAT(v16_##op, DL_VECTORS)
#define VT DL_CAT(v16, DL_VECTORS)
#define VSUMS V(sums)
#define VPAIRS V(pairs)

/* a * b + c rounded once, as the hardware does. libm is only called if the double sum is a tie. */
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
