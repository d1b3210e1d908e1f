/* The tile functions of every instruction set, and the one to use. */
#ifndef DL_MATMUL_H
#define DL_MATMUL_H

#include "tile.h"

#define DL_BODY "tile_float.inc.h"
#include "each_vec.h"

#include "begin_baseline.h"
#include "tile_baseline.h"
#include "end_baseline.h"

#if DL_X86
#include "begin_avx2.h"
#include "tile_avx2.h"
#include "end.h"

#if DL_AVXVNNI
#include "begin_avxvnni.h"
#include "tile_avxvnni.h"
#include "end.h"
#endif

#include "begin_avx512.h"
#include "tile_avx512.h"
#include "end.h"
#elif DL_ARM64
#include "begin_neon.h"
#include "tile_neon.h"
#include "end.h"

#include "begin_dotprod.h"
#include "tile_dotprod.h"
#include "end.h"

#include "begin_i8mm.h"
#include "tile_i8mm.h"
#include "end.h"
#endif

#define DL_TILES(isa, vec) {dl_tile_f32_##vec, dl_tile_f16_##vec, dl_tile_q40_##isa, dl_tile_q80_##isa},

/* type: DL_F32 .. DL_Q80; isa must be available on this machine. */
static inline dl_tile_fn dl_tile_of(int isa, int type)
{
    static const dl_tile_fn table[DL_ISA_COUNT][4] = {DL_ISAS(DL_TILES)};
    return table[isa][type];
}

#endif
