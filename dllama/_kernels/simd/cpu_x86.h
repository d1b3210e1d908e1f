/* Features of x86-64 processors; included by cpu.h. */
#ifndef DL_CPU_X86_H
#define DL_CPU_X86_H

#include <cpuid.h>

/* Features that __builtin_cpu_supports of some compilers does not know. */
enum { DL_CPUID_READ = 1, DL_CPUID_F16C = 2, DL_CPUID_AVXVNNI = 4 };

/* F16C: cpuid leaf 1, ecx bit 29. AVX-VNNI: leaf 7, subleaf 1, eax bit 4. The result is kept, since
 * cpuid takes microseconds in a virtual machine. Whether the operating system saves the registers
 * is checked with AVX2. */
DL_INLINE int dl_cpuid(void)
{
    static int known = 0;
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!found) {
        unsigned a = 0, b, c = 0, d;
        found = DL_CPUID_READ;
        if (__get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1)) found |= DL_CPUID_F16C;
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1
            && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1))
            found |= DL_CPUID_AVXVNNI;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found;
}

DL_INLINE int dl_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && (dl_cpuid() & DL_CPUID_F16C);
}

DL_INLINE int dl_has_avxvnni(void) { return dl_has_avx2() && (dl_cpuid() & DL_CPUID_AVXVNNI); }

DL_INLINE int dl_has_avx512(void)
{
    return dl_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vnni");
}

enum { DL_FEATURES = 12 };

DL_INLINE void dl_features(dl_feature *out)
{
    __builtin_cpu_init();
#define DL_HAS(name) {name, __builtin_cpu_supports(name) != 0}
    const dl_feature features[DL_FEATURES] = {
        DL_HAS("sse4.1"), DL_HAS("avx"), DL_HAS("avx2"), DL_HAS("fma"),
        {"f16c", (dl_cpuid() & DL_CPUID_F16C) != 0},
        DL_HAS("avx512f"), DL_HAS("avx512bw"), DL_HAS("avx512vl"), DL_HAS("avx512dq"),
        DL_HAS("avx512vnni"), DL_HAS("avx512bf16"), {"avxvnni", dl_has_avxvnni()},
    };
#undef DL_HAS
    memcpy(out, features, sizeof features);
}

#endif
