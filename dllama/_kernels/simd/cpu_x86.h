/* Features of x86-64 processors; included by cpu.h.
 *
 * They are read by cpuid: what __builtin_cpu_supports knows depends on the compiler and on the library
 * that is linked, and may be nothing at all.
 */
#ifndef DL_CPU_X86_H
#define DL_CPU_X86_H

#include <cpuid.h>

/* A bit for each feature, in the order of dl_features. */
enum {
    DL_HAS_SSE41, DL_HAS_AVX, DL_HAS_AVX2, DL_HAS_FMA, DL_HAS_F16C, DL_HAS_AVX512F,
    DL_HAS_AVX512BW, DL_HAS_AVX512VL, DL_HAS_AVX512DQ, DL_HAS_AVX512VNNI, DL_HAS_AVX512BF16,
    DL_HAS_AVXVNNI, DL_FEATURES,
    DL_KNOWN = DL_FEATURES, /* cpuid was read */
    DL_IS_ZEN4,
    DL_IS_ZEN5,             /* or a later processor of AMD */
};

/* Registers that the system saves (Intel's manual 1, section 13.3), if it says so. */
DL_INLINE unsigned dl_saved(unsigned leaf1_ecx)
{
    unsigned low, high;
    if (!(leaf1_ecx >> 27 & 1)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* The family of a processor of AMD (its manual 3, section E.3.2), 0 of any other maker. */
DL_INLINE unsigned dl_amd_family(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || c != signature_AMD_ecx || d != signature_AMD_edx)
        return 0;
    __get_cpuid(1, &a, &b, &c, &d);
    return (a >> 8 & 15) + ((a >> 8 & 15) == 15 ? a >> 20 & 255 : 0);
}

DL_INLINE int dl_read_cpuid(void)
{
    unsigned a = 0, b = 0, c = 0, d, leaf1 = 0, most = 0, b7 = 0, c7 = 0, a71 = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) leaf1 = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) most = a, b7 = b, c7 = c;
    if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    unsigned saved = dl_saved(leaf1), family = dl_amd_family();
    unsigned zen4 = family == 0x19 && b7 >> 16 & 1, zen5 = family >= 0x1a; /* Zen 3 has no AVX-512 */
    unsigned avx = (saved & 0x6) == 0x6, avx512 = (saved & 0xe6) == 0xe6;
#define DL_BIT(feature, word, bit, on) ((int)((word) >> (bit) & (on)) << (feature))
    return 1 << DL_KNOWN | (int)zen4 << DL_IS_ZEN4 | (int)zen5 << DL_IS_ZEN5
        | DL_BIT(DL_HAS_SSE41, leaf1, 19, 1u) | DL_BIT(DL_HAS_AVX, leaf1, 28, avx)
        | DL_BIT(DL_HAS_AVX2, b7, 5, avx) | DL_BIT(DL_HAS_FMA, leaf1, 12, avx)
        | DL_BIT(DL_HAS_F16C, leaf1, 29, avx) | DL_BIT(DL_HAS_AVX512F, b7, 16, avx512)
        | DL_BIT(DL_HAS_AVX512BW, b7, 30, avx512) | DL_BIT(DL_HAS_AVX512VL, b7, 31, avx512)
        | DL_BIT(DL_HAS_AVX512DQ, b7, 17, avx512) | DL_BIT(DL_HAS_AVX512VNNI, c7, 11, avx512)
        | DL_BIT(DL_HAS_AVX512BF16, a71, 5, avx512) | DL_BIT(DL_HAS_AVXVNNI, a71, 4, avx);
#undef DL_BIT
}

/* The result is kept, since cpuid takes microseconds in a virtual machine. */
DL_INLINE int dl_cpuid(void)
{
    static int known = 0;
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!found) {
        found = dl_read_cpuid();
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found;
}

DL_INLINE int dl_has(int feature) { return dl_cpuid() >> feature & 1; }

/* How many bytes of weights to ask for ahead of those that n tokens are multiplied with. On Zen 4 a few
 * tokens follow the processor's own fetching, which more disturbs; on Zen 3 and Zen 5 less is slower for
 * any number. Others, where it was not measured, do as Zen 3. */
DL_INLINE int dl_ahead(int64_t n)
{
    if (dl_has(DL_IS_ZEN5)) return 6144;
    return n <= 4 && dl_has(DL_IS_ZEN4) ? 256 : 3072;
}

DL_INLINE int dl_has_avx2(void) { return dl_has(DL_HAS_AVX2) && dl_has(DL_HAS_FMA) && dl_has(DL_HAS_F16C); }

DL_INLINE int dl_has_avxvnni(void) { return dl_has_avx2() && dl_has(DL_HAS_AVXVNNI); }

DL_INLINE int dl_has_avx512(void)
{
    return dl_has_avx2() && dl_has(DL_HAS_AVX512F) && dl_has(DL_HAS_AVX512BW) && dl_has(DL_HAS_AVX512VL)
        && dl_has(DL_HAS_AVX512DQ) && dl_has(DL_HAS_AVX512VNNI);
}

DL_INLINE void dl_features(dl_feature *out)
{
    static const char *const names[DL_FEATURES] = {
        "sse4.1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq",
        "avx512vnni", "avx512bf16", "avxvnni",
    };
    for (int i = 0; i < DL_FEATURES; i++) out[i] = (dl_feature){names[i], dl_has(i)};
}

#endif
