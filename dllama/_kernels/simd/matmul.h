/* The tile functions of all instruction sets. */
#ifndef DL_MATMUL_H
#define DL_MATMUL_H

#include "tile.h"
#include "tile_blocks.h"
#include "words.h"

/* How a matrix of a weight type is multiplied. */
typedef struct {
    dl_tile_fn run;     /* a panel times up to `most` tokens */
    int most;
} dl_tiles;

#define DL_BODY "tile_float.inc.h"
#include "each_vec.h"

#include "begin_baseline.h"
#include "tile_baseline.h"
#include "words_baseline.h"
#include "tile_table.inc.h"
#include "end_baseline.h"

#if DL_X86
#include "begin_avx2.h"
#include "tile_avx2.h"
#include "words_avx2.h"
#include "tile_table.inc.h"
#include "end.h"

#if DL_AVXVNNI
#include "begin_avxvnni.h"
#include "tile_avxvnni.h"
#include "words_avxvnni.h"
#include "tile_table.inc.h"
#include "end.h"
#endif

#include "begin_avx512.h"
#include "tile_avx512.h"
#include "words_avx512.h"
#include "tile_table.inc.h"
#include "end.h"
#elif DL_ARM64
#include "begin_neon.h"
#include "tile_neon.h"
#include "words_neon.h"
#include "tile_table.inc.h"
#include "end.h"

#include "begin_dotprod.h"
#include "tile_dotprod.h"
#include "words_dotprod.h"
#include "tile_table.inc.h"
#include "end.h"

#include "begin_i8mm.h"
#include "tile_i8mm.h"
#include "words_i8mm.h"
#include "tile_table.inc.h"
#include "end.h"
#endif

#define DL_TILES(isa, vec) dl_tiles_of_##isa,

/* The tiles of a weight type; isa must be available on this machine. */
static inline const dl_tiles *dl_tiles_of(int isa, int type)
{
    static const dl_tiles *const tables[DL_ISA_COUNT] = {DL_ISAS(DL_TILES)};
    return &tables[isa][type];
}

#endif
