/* What every task of a pass needs to know, and the activations it reads and writes.
 *
 * T: tokens in the pass. K: width of a row. nb: K / 32 blocks.
 */
#ifndef DL_BATCH_H
#define DL_BATCH_H

#include <stdint.h>

typedef struct {
    int64_t tokens;       /* T */
    int64_t position;     /* of the first token */
    const int32_t *ids;   /* [T] */
    int64_t first_tail;   /* first row that tasks on the tail compute */
    int threads;          /* size of the team */
} dl_batch;

/* Rows that feed a matmul: as floats x[T][k], or, where x is NULL, as Q80 blocks in tiles of
 * DL_TILE_TOKENS tokens, each laid out as tile.h says; the last tile is as wide as it needs. */
typedef struct {
    int64_t k;
    float *x;
    int8_t *q;     /* [T * k] */
    float *d;      /* [T * nb] */
    int32_t *s;    /* [T * nb] */
} dl_rows;

enum { DL_TILE = 8 };

/* Tokens in the tile of token t when there are T. */
static inline int dl_tile_width(int64_t T, int64_t t)
{
    int64_t left = T - t / DL_TILE * DL_TILE;
    return left < DL_TILE ? (int)left : DL_TILE;
}

#endif
