/* Features of 64-bit Arm processors; included by cpu.h. They are found at run time on Linux and
 * macOS, elsewhere by the compiler's target. */
#ifndef DL_CPU_ARM64_H
#define DL_CPU_ARM64_H

#if defined(__linux__)
#include <sys/auxv.h>
#define DL_HAS(word, bit, sysctl, macro) ((int)(getauxval(word) >> (bit) & 1))
#elif defined(__APPLE__)
#include <sys/sysctl.h>
DL_INLINE int dl_sysctl(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value;
}
#define DL_HAS(word, bit, sysctl, macro) dl_sysctl("hw.optional.arm.FEAT_" sysctl)
#else
#define DL_HAS(word, bit, sysctl, macro) (macro)
#endif

#if defined(__ARM_FEATURE_DOTPROD)
#define DL_TARGET_DOTPROD 1
#else
#define DL_TARGET_DOTPROD 0
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define DL_TARGET_I8MM 1
#else
#define DL_TARGET_I8MM 0
#endif

DL_INLINE int dl_ahead(int64_t n) { return (void)n, 2048; }

/* Every 64-bit Arm processor that runs an operating system. */
DL_INLINE int dl_has_neon(void) { return 1; }

/* Bits as in Linux's asm/hwcap.h. */
DL_INLINE int dl_has_dotprod(void) { return DL_HAS(AT_HWCAP, 20, "DotProd", DL_TARGET_DOTPROD); }

DL_INLINE int dl_has_i8mm(void)
{
    return dl_has_dotprod() && DL_HAS(AT_HWCAP2, 13, "I8MM", DL_TARGET_I8MM);
}

enum { DL_FEATURES = 3 };

DL_INLINE void dl_features(dl_feature *out)
{
    const dl_feature features[DL_FEATURES] = {
        {"neon", dl_has_neon()}, {"dotprod", dl_has_dotprod()}, {"i8mm", dl_has_i8mm()},
    };
    memcpy(out, features, sizeof features);
}

#undef DL_HAS
#endif
