/* The tiles of an instruction set, by weight type. Those that read floats are those of its vectors,
 * those that read Q80 blocks are its own. */

#ifndef DL_WORD_VECTORS
#define DL_WORD_VECTORS(n) (n)
#define DL_PUT_WORDS(t, index, acc, n) DL_VFN(dl_put_sums)(t, index, acc, n)
#endif
#include "tile_words.inc.h"
#undef DL_WORD_VECTORS
#undef DL_PUT_WORDS

#define DL_OF_VECTORS(id, name, block, bytes, header, packed, form) [id] = {DL_VFN(dl_tile_##name), DL_TILE_FLOATS},
#define DL_OF_ISA(id, name, block, bytes, header, packed, form) [id] = {DL_FN(dl_tile_##name), DL_TILE_TOKENS},
#define DL_OF_WORDS(id, name, block, bytes, header, packed, form) [id] = {DL_FN(dl_tile_##name), DL_TILE_MOST},
static const dl_tiles DL_FN(dl_tiles_of)[] = {
    DL_FLOAT_TYPES(DL_OF_VECTORS) DL_BLOCK_TYPES(DL_OF_ISA) DL_WORD_TYPES(DL_OF_WORDS)
};
#undef DL_OF_VECTORS
#undef DL_OF_ISA
#undef DL_OF_WORDS
