/* Which instruction sets this machine has, and which one to use. */
#ifndef DL_CPU_H
#define DL_CPU_H

#include <stdlib.h>
#include "isa.h"

static const char *const dl_isa_names[DL_ISA_COUNT] = {"baseline", "avx2", "avx512"};

/* 1 if the processor and the operating system support it. */
static inline int dl_isa_available(int isa)
{
    if (isa == DL_ISA_BASELINE) return 1;
#if DL_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && __builtin_cpu_supports("f16c");
    if (isa == DL_ISA_AVX2) return avx2;
    if (isa == DL_ISA_AVX512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vnni");
#endif
    return 0;
}

/* Index of a name in dl_isa_names, or -1. */
static inline int dl_isa_named(const char *name)
{
    for (int isa = 0; isa < DL_ISA_COUNT; isa++)
        if (strcmp(dl_isa_names[isa], name) == 0) return isa;
    return -1;
}

/* The best one, or a lower one that DLLAMA_ISA names; other names change nothing here
 * (cpu.isa refuses them). */
static inline int dl_isa(void)
{
    const char *wanted = getenv("DLLAMA_ISA");
    int isa = DL_ISA_COUNT - 1;
    while (!dl_isa_available(isa)) isa--;
    int named = wanted ? dl_isa_named(wanted) : -1;
    return named >= 0 && named < isa ? named : isa;
}

#endif
