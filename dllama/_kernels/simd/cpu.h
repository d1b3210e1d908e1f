/* Which instruction sets this machine supports, and which one to use. */
#ifndef DL_CPU_H
#define DL_CPU_H

#include <stdlib.h>
#include "isa.h"

/* A vector extension, and whether the processor has it. dl_features lists them, oldest first. */
typedef struct { const char *name; int present; } dl_feature;

DL_INLINE int dl_has_baseline(void) { return 1; }
#if DL_X86
#include "cpu_x86.h"
#elif DL_ARM64
#include "cpu_arm64.h"
#else
enum { DL_FEATURES = 1 };
DL_INLINE int dl_ahead(int64_t n) { return (void)n, 2048; }
DL_INLINE void dl_features(dl_feature *out) { out[0] = (dl_feature){"none", 0}; }
#endif

#define DL_ISA_NAME(isa, vec) #isa,
static const char *const dl_isa_names[DL_ISA_COUNT] = {DL_ISAS(DL_ISA_NAME)};

/* 1 if the processor and the operating system support it. */
static inline int dl_isa_available(int isa)
{
#define DL_ISA_CASE(isa, vec) case dl_isa_##isa: return dl_has_##isa();
    switch (isa) { DL_ISAS(DL_ISA_CASE) }
#undef DL_ISA_CASE
    return 0;
}

/* Index of a name in dl_isa_names, or -1. */
static inline int dl_isa_named(const char *name)
{
    for (int isa = 0; isa < DL_ISA_COUNT; isa++)
        if (strcmp(dl_isa_names[isa], name) == 0) return isa;
    return -1;
}

/* The instruction set that DLLAMA_ISA names, or the best one. A name that is unknown or not
 * supported is ignored here; cpu.isa refuses it. */
static inline int dl_isa(void)
{
    const char *wanted = getenv("DLLAMA_ISA");
    int isa = wanted ? dl_isa_named(wanted) : -1;
    if (isa >= 0 && dl_isa_available(isa)) return isa;
    isa = DL_ISA_COUNT - 1;
    while (!dl_isa_available(isa)) isa--;
    return isa;
}

#endif
