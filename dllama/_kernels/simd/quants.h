/* Numbers as files store them, for every instruction set. */
#ifndef DL_QUANTS_H
#define DL_QUANTS_H

#include <math.h>
#include "cpu.h"
#include "tile.h"

enum { DL_SRC_F32 = 0, DL_SRC_F16 = 1, DL_SRC_BF16 = 2 };

#include "begin_baseline.h"
#include "quants.inc.h"
#include "end_baseline.h"

#if DL_X86
#include "begin_avx2.h"
#include "quants.inc.h"
#include "end.h"

#include "begin_avx512.h"
#include "quants.inc.h"
#include "end.h"
#endif

typedef struct {
    int (*encode)(const void *src, int src_type, int64_t n, int type, uint8_t *dst);
    void (*decode)(const uint8_t *src, int type, int64_t n, float *dst);
} dl_quants;

/* isa must be available on this machine. */
static inline const dl_quants *dl_quants_of(int isa)
{
    static const dl_quants table[DL_ISA_COUNT] = {
        {dl_encode_baseline, dl_decode_baseline},
#if DL_X86
        {dl_encode_avx2, dl_decode_avx2},
        {dl_encode_avx512, dl_decode_avx512},
#endif
    };
    return &table[isa];
}

#endif
