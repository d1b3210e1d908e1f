/* The float kernels: a table of functions for each instruction set. */
#ifndef DL_ELEMENTWISE_H
#define DL_ELEMENTWISE_H

#include <math.h>
#include "half.h"
#include "isa.h"

#define DL_BODY "floats.inc.h"
#include "each_vec.h"

typedef struct {
    void (*rmsnorm)(const float *x, const float *weight, float epsilon, int64_t n, float *y);
    void (*layernorm)(const float *x, const float *weight, const float *bias, float epsilon, int64_t n, float *y);
    void (*silu)(const float *x, int64_t n, float *h);
    void (*gelu)(const float *x, int64_t n, float *h);
    void (*swiglu)(const float *gate, const float *up, int64_t n, float *h);
    void (*geglu)(const float *gate, const float *up, int64_t n, float *h);
    void (*swiglu_clamped)(const float *gate, const float *up, int64_t n, float limit, float *h);
    void (*softcap)(const float *x, int64_t n, float cap, float *y);
    void (*quantise_row)(const float *x, int64_t nb, int n, int8_t *q, float *d, int32_t *s, int32_t *h);
    void (*exp_row)(const float *x, int64_t n, float *y);
} dl_floats;

#define DL_FLOATS(isa, vec) \
    {dl_rmsnorm_##vec, dl_layernorm_##vec, dl_silu_##vec, dl_gelu_##vec, dl_swiglu_##vec, dl_geglu_##vec, \
     dl_swiglu_clamped_##vec, dl_softcap_##vec, dl_quantise_row_##vec, dl_exp_row_##vec},

/* isa must be available on this machine. */
static inline const dl_floats *dl_floats_of(int isa)
{
    static const dl_floats table[DL_ISA_COUNT] = {DL_ISAS(DL_FLOATS)};
    return &table[isa];
}

#endif
