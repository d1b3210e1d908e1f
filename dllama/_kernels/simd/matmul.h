/* The tile functions of every instruction set, and the one to use. */
#ifndef DL_MATMUL_H
#define DL_MATMUL_H

#include "tile.h"

#include "begin_baseline.h"
#include "tile_lanes.inc.h"
#include "tile_float.inc.h"
#include "tile_baseline.h"
#include "end_baseline.h"

#if DL_X86
#include "begin_avx2.h"
#include "tile_lanes.inc.h"
#include "tile_float.inc.h"
#include "tile_avx2.h"
#include "end.h"

#include "begin_avx512.h"
#include "tile_lanes.inc.h"
#include "tile_float.inc.h"
#include "tile_avx512.h"
#include "end.h"
#endif

/* type: DL_F32 .. DL_Q80; isa must be available on this machine. */
static inline dl_tile_fn dl_tile_of(int isa, int type)
{
    static const dl_tile_fn table[DL_ISA_COUNT][4] = {
        {dl_tile_f32_baseline, dl_tile_f16_baseline, dl_tile_q40_baseline, dl_tile_q80_baseline},
#if DL_X86
        {dl_tile_f32_avx2, dl_tile_f16_avx2, dl_tile_q40_avx2, dl_tile_q80_avx2},
        {dl_tile_f32_avx512, dl_tile_f16_avx512, dl_tile_q40_avx512, dl_tile_q80_avx512},
#endif
    };
    return table[isa][type];
}

#endif
