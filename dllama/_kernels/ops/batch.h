/* A batch: the rows that a pass evaluates, and the activations its tasks read and write.
 *
 * T: rows of the batch. K: columns of a row of activations. nb: K / 32 blocks.
 */
#ifndef DL_BATCH_H
#define DL_BATCH_H

#include <stdint.h>

/* Rows of one sequence at consecutive positions. */
typedef struct {
    int64_t first, count;   /* rows of the batch */
    int64_t position;       /* of the first row */
    const int32_t *blocks;  /* KV blocks of the sequence, in the order of their positions */
    int64_t partials;       /* rows of earlier spans whose attention is merged later; -1: not this one */
} dl_span;

typedef struct {
    int64_t rows;               /* T */
    const int32_t *ids;         /* [T] token of a row */
    const int32_t *positions;   /* [T] position in its sequence */
    const int32_t *blocks;      /* [T] KV block that keeps its key and value */
    int64_t n_wanted;
    const int32_t *wanted;      /* [n_wanted] rows whose logits are wanted, ascending */
    int64_t n_spans;
    const dl_span *spans;       /* [n_spans] all rows, in order */
} dl_batch;

/* Rows that feed a matmul: as floats x[T][k], or, where x is NULL, as Q80 blocks in tiles of
 * DL_TILE rows, each laid out as tile.h says; the last tile is as wide as it needs to be. */
typedef struct {
    int64_t k;
    float *x;
    int8_t *q;     /* [T * k] */
    float *d;      /* [T * nb] */
    int32_t *s;    /* [T * nb] */
} dl_rows;

enum { DL_TILE = 8 };

/* Rows in the tile of row t when there are T. */
static inline int dl_tile_width(int64_t T, int64_t t)
{
    int64_t left = T - t / DL_TILE * DL_TILE;
    return left < DL_TILE ? (int)left : DL_TILE;
}

#endif
