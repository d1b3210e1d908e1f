/* Float weights times float activations, and the tree over segments. Compiled once per
 * instruction set. */

#include "tile_sums.inc.h"

#define DL_FLOAT_TILE(name, ctype, load)                                             \
    DL_INLINE void DL_FN(name##_n)(const dl_tile *t, const int n)                    \
    {                                                                                \
        DL_FN(dl_sums) sums;                                                         \
        sums.count = sums.ended = 0;                                                 \
        const ctype *w = (const ctype *)t->w;                                        \
        const float *x = t->x;                                                       \
        for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {      \
            VT even[DL_TILE_FLOATS], odd[DL_TILE_FLOATS];                            \
            DL_UNROLL for (int i = 0; i < n; i++) even[i] = odd[i] = V(set1)(0.0f);  \
            int64_t k = 0;                                                           \
            for (; k + 2 <= g->columns; k += 2, w += 32) {                           \
                VT w0 = V(load)(w), w1 = V(load)(w + 16);                            \
                DL_UNROLL for (int i = 0; i < n; i++) {                              \
                    even[i] = V(fma)(w0, V(set1)(x[i * t->ldx + k]), even[i]);       \
                    odd[i] = V(fma)(w1, V(set1)(x[i * t->ldx + k + 1]), odd[i]);     \
                }                                                                    \
            }                                                                        \
            if (k < g->columns) {                                                    \
                VT w0 = V(load)(w);                                                  \
                DL_UNROLL for (int i = 0; i < n; i++)                                \
                    even[i] = V(fma)(w0, V(set1)(x[i * t->ldx + k]), even[i]);       \
                w += 16;                                                             \
            }                                                                        \
            DL_UNROLL for (int i = 0; i < n; i++) even[i] = V(add)(even[i], odd[i]); \
            if (DL_FN(dl_segment_done)(&sums, g, even, n))                           \
                DL_FN(dl_put_sums)(t, sums.ended++, even, n);                        \
            x += g->columns;                                                         \
        }                                                                            \
    }                                                                                \
    static void DL_FN(name)(const dl_tile *t, int n)                                 \
    {                                                                                \
        switch (n) {                                                                 \
        case 1: DL_FN(name##_n)(t, 1); break;                                        \
        case 2: DL_FN(name##_n)(t, 2); break;                                        \
        case 3: DL_FN(name##_n)(t, 3); break;                                        \
        default: DL_FN(name##_n)(t, 4); break;                                       \
        }                                                                            \
    }

DL_FLOAT_TILE(dl_tile_f32, float, load)
DL_FLOAT_TILE(dl_tile_f16, uint16_t, load_half)
DL_FLOAT_TILE(dl_tile_bf16, uint16_t, load_bf16)
#undef DL_FLOAT_TILE
