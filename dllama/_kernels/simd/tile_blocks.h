/* The loop of a quantised tile over segments and blocks, for instruction sets that only define the
 * arithmetic of one block. */
#ifndef DL_TILE_BLOCKS_H
#define DL_TILE_BLOCKS_H

/* One block of 32 columns: pointers into the arrays of tile.h. */
typedef struct {
    const uint16_t *scales; /* [16] */
    const uint8_t *w;       /* the words after the scales */
    const int8_t *x;        /* [8][n][4] */
    const float *d;         /* [n] */
    const int32_t *s, *h;   /* [n] */
} dl_block;

/* block(&b, n, acc) adds a block of block_bytes to acc[vectors(n)]. put(t, index, acc, n) writes
 * sum number `index`. n is a constant in each copy. */
#define DL_BLOCK_TILE(name, block, block_bytes, vectors, put)                      \
    DL_INLINE void DL_FN(name##_n)(const dl_tile *t, const int n)                  \
    {                                                                              \
        DL_VFN(dl_sums) sums;                                                      \
        sums.count = sums.ended = 0;                                               \
        dl_block b = {(const uint16_t *)t->w, t->w + DL_SCALES, t->q, t->d, t->s, t->h}; \
        for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {    \
            VT acc[DL_TILE_TOKENS];                                                \
            DL_UNROLL for (int i = 0; i < vectors(n); i++) acc[i] = V(set1)(0.0f); \
            for (int i = g->columns / 32; i > 0; i--) {                            \
                dl_fetch(b.w, block_bytes, t->ahead);                              \
                block(&b, n, acc);                                                 \
                b.w += (block_bytes), b.scales += (block_bytes) / 2;               \
                b.x += 32 * n, b.d += n, b.s += n;                                 \
            }                                                                      \
            if (DL_VFN(dl_segment_done)(&sums, g, acc, vectors(n)))                \
                put(t, sums.ended++, acc, n);                                      \
        }                                                                          \
    }

/* A value that the compiler does not know: a loop over it stays a loop. */
DL_INLINE int dl_opaque(int value)
{
    __asm__("" : "+r"(value));
    return value;
}

#define DL_PER_TOKEN(n) (n)
#endif
