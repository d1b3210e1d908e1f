/* A batch: the rows that a pass evaluates, and the activations that its tasks read and write.
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
    int64_t lag;            /* positions before it that the states have not taken in */
    int64_t tentative;      /* last positions, at most lag + count, that states do not take in yet */
    const int32_t *blocks;  /* [caches][blocks of the longest sequence] KV blocks of the sequence in
                               each KV cache, by position; those that no row sees are not set */
    int64_t partials;       /* rows of earlier spans that keep partials; -1: this one keeps none */
} dl_span;

typedef struct {
    int64_t rows;               /* T */
    const int32_t *ids;         /* [T] token id of a row */
    const int32_t *positions;   /* [T] position of a row in its sequence */
    const uint8_t *lengthened;  /* [T] whether RoPE takes the frequencies for long texts */
    const int32_t *blocks;      /* [caches][most rows] KV block of the key and value of a row */
    int64_t n_wanted;
    const int32_t *wanted;      /* [n_wanted] rows whose logits are wanted, ascending */
    int64_t n_spans;
    const dl_span *spans;       /* [n_spans] all rows, in order */
} dl_batch;

/* Rows that a matmul reads: floats x[T][k] or, if x is NULL, Q80 blocks in tiles of DL_TILE rows,
 * laid out as in tile.h. The last tile has only as many rows as are left. */
typedef struct {
    int64_t k;
    float *x;
    int8_t *q;     /* [T * k] */
    float *d;      /* [T * nb] */
    int32_t *s;    /* [T * nb] */
    int32_t *h;    /* [T * nb] */
} dl_rows;

enum { DL_TILE = 8 };

/* Rows in the tile of row t, of T rows. */
static inline int dl_tile_width(int64_t T, int64_t t)
{
    int64_t left = T - t / DL_TILE * DL_TILE;
    return left < DL_TILE ? (int)left : DL_TILE;
}

#endif
