/* Attention to a block of the KV cache, for every instruction set.
 *
 * A block is DL_KV_BLOCK positions. The partial of a query row and a block (maximum m, sum l of
 * exponentials, weighted sum o of values) does not depend on anything else, and partials are merged
 * in the order of positions. So the result has the same bits for any batch, number of threads and
 * instruction set.
 *
 * size: elements of a head. padded: size rounded up to 16.
 */
#ifndef DL_ATTENTION_H
#define DL_ATTENTION_H

#include "elementwise.h"

enum { DL_KV_BLOCK = 256, DL_ATTEND_ROWS = 4, DL_HEAD_MAX = 512 };

/* Bytes of `next` that are prefetched while the scores of a row become exponentials. */
enum { DL_AHEAD = 64 * (DL_KV_BLOCK / 16) };

typedef struct {
    float m, l;
    float o[DL_HEAD_MAX];
} dl_partial;

typedef struct {
    const void *k;          /* [count / 16 rounded up][size][16] */
    const void *v;          /* [count][padded] */
    const void *next;       /* what the thread reads after this block; may be any address */
    const float *q;         /* [rows][size], scaled */
    int size, padded;
    int count;              /* positions of this block that any row sees */
    int limit[DL_ATTEND_ROWS]; /* positions that row r sees, 0 to count */
    float cap;              /* if not 0, a score s becomes cap * tanh(s / cap) */
    float *scores;          /* [DL_ATTEND_ROWS][DL_KV_BLOCK], scratch */
    dl_partial *partial;    /* [rows], the result; a row with limit 0 gets m = -infinity */
} dl_attend;

#define DL_BODY "attend.inc.h"
#include "each_vec.h"

typedef struct {
    void (*attend[2])(const dl_attend *a, int n); /* for a cache of float32, of float16 */
    void (*merge)(dl_partial *into, const dl_partial *partial, int n);
    void (*finish)(const dl_partial *partial, int n, float *out);
    void (*to_half)(const float *x, int n, uint16_t *dst);
} dl_attention;

#define DL_ATTENTION(isa, vec) \
    {{dl_attend_f32_##vec, dl_attend_f16_##vec}, dl_attend_merge_##vec, dl_attend_finish_##vec, dl_to_half_##vec},

/* isa must be available on this machine. */
static inline const dl_attention *dl_attention_of(int isa)
{
    static const dl_attention table[DL_ISA_COUNT] = {DL_ISAS(DL_ATTENTION)};
    return &table[isa];
}

#endif
