/* The kernels of elementwise.h, and functions of vectors for headers of other kernels. */
#ifndef DL_FLOATS_H
#define DL_FLOATS_H

#include <math.h>
#include "elementwise.h"
#include "half.h"
#include "isa.h"

#define DL_BODY "floats.inc.h"
#include "each_vec.h"

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
