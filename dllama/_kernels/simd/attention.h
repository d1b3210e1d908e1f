/* Attention to a block of the KV cache, for every instruction set.
 *
 * A block is DL_KV_BLOCK positions. The partial of a query row and a block (maximum m, sum l of
 * exponentials, weighted sum o of values) does not depend on anything else, and partials are merged
 * in the order of positions. So the result has the same bits for any batch, number of threads and
 * instruction set.
 *
 * size: elements of a key. padded: size rounded up to 16. values: elements of a value, rounded up to 16.
 * A panel of keys has padded elements of a position, one of values has `values`; blocks: these / 32
 * rounded up.
 *
 * Keys and values of float32 and float16 are numbers, keys in an order in which a vector has one
 * element of 16 positions. Those of Q80 are panels of 16 positions, each a scale for every block of
 * 32 elements and int8 in pairs:
 *   keys    float16 [blocks][16 positions], int8 [padded / 2][16 positions][2 elements]
 *   values  float16 [blocks][16 positions], int8 [16 / 2][values][2 positions]
 *
 * In a shared cache values are the first elements of keys, and only keys are stored: in Q80 as
 * above, numbers as rows of padded elements, the last of them zeros.
 */
#ifndef DL_ATTENTION_H
#define DL_ATTENTION_H

#include <stdint.h>

#include "types.h"

enum { DL_KV_BLOCK = 256, DL_ATTEND_ROWS = 4, DL_HEAD_MAX = 576 };

/* Bytes of `next` that are prefetched while the scores of a row become exponentials. */
enum { DL_AHEAD = 64 * (DL_KV_BLOCK / 16) };

/* Bytes of the scales of a Q80 panel, and of all of it. */
static inline int64_t dl_kv_scales(int64_t padded) { return (padded + 31) / 32 * 16 * 2; }
static inline int64_t dl_kv_panel(int64_t padded) { return dl_kv_scales(padded) + 16 * padded; }

/* Bytes of the keys of a head, or of its values, in a block of `positions`, a multiple of 16. */
static inline int64_t dl_kv_bytes(int type, int64_t positions, int64_t elements)
{
    if (type == dl_type_q80) return positions / 16 * dl_kv_panel(elements);
    return positions * elements * (type == dl_type_f16 ? 2 : 4);
}

typedef struct {
    float m, l;
    float o[DL_HEAD_MAX];
} dl_partial;

typedef struct {
    const void *k;          /* [count / 16 rounded up][size][16], or Q80 panels; shared: [count][padded] */
    const void *v;          /* [count][values], or Q80 panels; shared: k */
    const void *next;       /* what the thread reads after this block; may be any address */
    const float *q;         /* [rows][size], scaled */
    int size, padded, values;
    int stride;             /* elements from a row of v to the next: values; shared: padded */
    int begin, count;       /* rows see positions of this block from begin, a multiple of 16, to count */
    int first[DL_ATTEND_ROWS]; /* row r sees the positions from first, at least begin, */
    int limit[DL_ATTEND_ROWS]; /* up to limit, at most count; 0: it sees none */
    float cap;              /* if not 0, a score s becomes cap * tanh(s / cap) */
    float *scores;          /* [DL_ATTEND_ROWS][DL_KV_BLOCK], scratch */
    dl_partial *partial;    /* [rows], the result; a row with limit 0 gets m = -infinity */
} dl_attend;

typedef struct {
    /* By type of the cache, which is f32, f16 or q80. */
    void (*attend[dl_type_q80 + 1])(const dl_attend *a, int n);
    void (*attend_shared[dl_type_q80 + 1])(const dl_attend *a, int n);
    void (*merge)(dl_partial *into, const dl_partial *partial, int n);
    void (*finish)(const dl_partial *partial, int n, float *out);
    void (*to_half)(const float *x, int n, uint16_t *dst);
    void (*put_q80)(const float *x, int size, int at, int is_value, void *panels);
} dl_attention;

#endif
