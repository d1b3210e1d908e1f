/* Encoders that search for the least error, for every instruction set. */
#ifndef DL_SEARCH_H
#define DL_SEARCH_H

#include <math.h>
#include "cpu.h"
#include "pieces.h"
#include "quants.h"

/* Types that a search converts numbers to. */
#define DL_SEARCHED_TYPES(X) X(q40) X(q41) X(q50) X(q51) X(q4k) X(q5k) X(q6k) X(iq4nl)

#define DL_BODY "search.inc.h"
#include "each_vec.h"

typedef int (*dl_search_fn)(const float *x, const float *importance, int64_t n, int type, uint8_t *dst);

#define DL_SEARCH_OF(isa, vec) dl_search_##vec,

/* isa must be available on this machine. */
static inline dl_search_fn dl_search_of(int isa)
{
    static const dl_search_fn table[DL_ISA_COUNT] = {DL_ISAS(DL_SEARCH_OF)};
    return table[isa];
}

static inline int dl_type_is_searched(int type)
{
#define DL_SEARCHED_OR(name) type == dl_type_##name ||
    return DL_SEARCHED_TYPES(DL_SEARCHED_OR) 0;
#undef DL_SEARCHED_OR
}

#endif
