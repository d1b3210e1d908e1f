/* Encoding and decoding of stored numbers, for every instruction set. */
#ifndef DL_QUANTS_H
#define DL_QUANTS_H

#include <math.h>
#include "cpu.h"
#include "tile.h"

enum { DL_SRC_F32 = 0, DL_SRC_F16 = 1, DL_SRC_BF16 = 2 };

#define DL_BODY "quants.inc.h"
#include "each_vec.h"

typedef struct {
    int (*encode)(const void *src, int src_type, int64_t n, int type, uint8_t *dst);
    void (*decode)(const uint8_t *src, int type, int64_t n, float *dst);
} dl_quants;

#define DL_QUANTS(isa, vec) {dl_encode_##vec, dl_decode_##vec},

/* isa must be available on this machine. */
static inline const dl_quants *dl_quants_of(int isa)
{
    static const dl_quants table[DL_ISA_COUNT] = {DL_ISAS(DL_QUANTS)};
    return &table[isa];
}

/* Whether numbers can be converted to a type. */
static inline int dl_type_is_encoded(int type)
{
#define DL_ENCODED_OR(name) type == dl_type_##name ||
    return DL_ENCODED_TYPES(DL_ENCODED_OR) 0;
#undef DL_ENCODED_OR
}

#endif
