/* The tiles of an instruction set, by weight type. Those that read floats are those of its vectors,
 * those that read Q80 blocks are its own. */

#define DL_TILE_floats(name) DL_VFN(dl_tile_##name)
#define DL_TILE_blocks(name) DL_FN(dl_tile_##name)
#define DL_TILE_ENTRY(id, name, block, bytes, packed, input) [id] = DL_TILE_##input(name),
static const dl_tile_fn DL_FN(dl_tiles)[] = {DL_WEIGHT_TYPES(DL_TILE_ENTRY)};
#undef DL_TILE_floats
#undef DL_TILE_blocks
#undef DL_TILE_ENTRY
