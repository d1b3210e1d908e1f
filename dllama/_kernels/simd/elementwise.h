/* The float kernels of every instruction set, as one table each. */
#ifndef DL_ELEMENTWISE_H
#define DL_ELEMENTWISE_H

#include <math.h>
#include "half.h"
#include "isa.h"

#include "begin_baseline.h"
#include "floats.inc.h"
#include "end_baseline.h"

#if DL_X86
#include "begin_avx2.h"
#include "floats.inc.h"
#include "end.h"

#include "begin_avx512.h"
#include "floats.inc.h"
#include "end.h"
#endif

typedef struct {
    void (*rmsnorm)(const float *x, const float *weight, float epsilon, int64_t n, float *y);
    void (*swiglu)(const float *gate, const float *up, int64_t n, float *h);
    void (*geglu)(const float *gate, const float *up, int64_t n, float *h);
    void (*quantise_row)(const float *x, int64_t nb, int n, int8_t *q, float *d, int32_t *s);
    void (*exp_row)(const float *x, int64_t n, float *y);
} dl_floats;

#define DL_FLOATS(isa) \
    {dl_rmsnorm_##isa, dl_swiglu_##isa, dl_geglu_##isa, dl_quantise_row_##isa, dl_exp_row_##isa}

/* isa must be available on this machine. */
static inline const dl_floats *dl_floats_of(int isa)
{
    static const dl_floats table[DL_ISA_COUNT] = {
        DL_FLOATS(baseline),
#if DL_X86
        DL_FLOATS(avx2),
        DL_FLOATS(avx512),
#endif
    };
    return &table[isa];
}

#endif
