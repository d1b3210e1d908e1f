/* The kernels of attention.h. They take long to compile, so only kv_cache.pyx includes this. */
#ifndef DL_ATTEND_H
#define DL_ATTEND_H

#include "attention.h"
#include "floats.h"

#define DL_BODY "attend.inc.h"
#include "each_vec.h"

#define DL_ATTENTION(isa, vec) \
    {{[dl_type_f32] = dl_attend_f32_##vec, [dl_type_f16] = dl_attend_f16_##vec,                 \
      [dl_type_q80] = dl_attend_q80_##vec},                                                     \
     {[dl_type_f32] = dl_attend_shared_f32_##vec, [dl_type_f16] = dl_attend_shared_f16_##vec,   \
      [dl_type_q80] = dl_attend_shared_q80_##vec},                                              \
     dl_attend_merge_##vec, dl_attend_finish_##vec, dl_to_half_##vec, dl_put_q80_##vec},

/* isa must be available on this machine. */
static inline const dl_attention *dl_attention_of(int isa)
{
    static const dl_attention table[DL_ISA_COUNT] = {DL_ISAS(DL_ATTENTION)};
    return &table[isa];
}

#endif
