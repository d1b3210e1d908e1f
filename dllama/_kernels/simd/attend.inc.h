/* Attention of up to DL_ATTEND_ROWS query rows to one block of the KV cache. Compiled once per
 * instruction set. Layouts are described in attention.h.
 */

/* scores[r][p] = q[r] . k[p]. For each vector of keys, as many bytes of values are prefetched,
 * which dl_mix reads next. */
#define DL_SCORES(suffix, ctype, load)                                                       \
    DL_INLINE void DL_FN(dl_scores_##suffix)(const dl_attend *a, const int n)                \
    {                                                                                        \
        const ctype *k = (const ctype *)a->k + a->begin * a->size;                           \
        const char *values = (const char *)((const ctype *)a->v + a->begin * a->stride);     \
        for (int p = a->begin; p < a->count; p += 16) {                                      \
            VT acc[DL_ATTEND_ROWS];                                                          \
            DL_UNROLL for (int r = 0; r < n; r++) acc[r] = V(set1)(0.0f);                              \
            for (int d = 0; d < a->size; d++, k += 16, values += 16 * sizeof(ctype)) {       \
                __builtin_prefetch(values);                                                  \
                VT keys = V(load)(k);                                                        \
                DL_UNROLL for (int r = 0; r < n; r++)                                                  \
                    acc[r] = V(fma)(keys, V(set1)(a->q[r * a->size + d]), acc[r]);           \
            }                                                                                \
            DL_UNROLL for (int r = 0; r < n; r++) V(store)(a->scores + r * DL_KV_BLOCK + p, acc[r]);      \
        }                                                                                    \
    }

/* The same for keys that are rows. A lane has every 16th product of a row, and V(hsum) adds lanes. */
#define DL_ROW_SCORES(suffix, ctype, read)                                                   \
    DL_INLINE void DL_FN(dl_row_scores_##suffix)(const dl_attend *a, const int n)            \
    {                                                                                        \
        const ctype *k = (const ctype *)a->k + a->begin * a->padded;                         \
        float q[DL_ATTEND_ROWS][DL_HEAD_MAX];                                                \
        for (int r = 0; r < n; r++) {                                                        \
            for (int d = a->padded - 16; d < a->padded; d++) q[r][d] = 0.0f;                 \
            memcpy(q[r], a->q + r * a->size, (size_t)a->size * sizeof(float));               \
        }                                                                                    \
        for (int p = a->begin; p < a->count; p++) {                                          \
            VT acc[DL_ATTEND_ROWS];                                                          \
            DL_UNROLL for (int r = 0; r < n; r++) acc[r] = V(set1)(0.0f);                              \
            for (int d = 0; d < a->padded; d += 16, k += 16) {                               \
                VT keys = V(read)(k);                                                        \
                DL_UNROLL for (int r = 0; r < n; r++)                                                  \
                    acc[r] = V(fma)(keys, V(load)(q[r] + d), acc[r]);                        \
            }                                                                                \
            DL_UNROLL for (int r = 0; r < n; r++) a->scores[r * DL_KV_BLOCK + p] = V(hsum)(acc[r]);       \
        }                                                                                    \
    }

/* o[r] = sum over positions of scores[r][p] * v[p]. For each vector of values, as many bytes of
 * `next` are prefetched, from where dl_softmax_partial stopped. */
#define DL_MIX(suffix, ctype, load)                                                          \
    DL_INLINE void DL_FN(dl_mix_##suffix)(const dl_attend *a, const int n)                   \
    {                                                                                        \
        const char *next = (const char *)a->next + DL_AHEAD * n;                             \
        for (int d = 0; d < a->values; d += 16) {                                            \
            const ctype *v = (const ctype *)a->v + a->begin * a->stride + d;                 \
            VT acc[DL_ATTEND_ROWS];                                                          \
            DL_UNROLL for (int r = 0; r < n; r++) acc[r] = V(set1)(0.0f);                              \
            for (int p = a->begin; p < a->count; p++, v += a->stride, next += 16 * sizeof(ctype)) { \
                __builtin_prefetch(next);                                                    \
                VT values = V(load)(v);                                                      \
                DL_UNROLL for (int r = 0; r < n; r++)                                                  \
                    acc[r] = V(fma)(values, V(set1)(a->scores[r * DL_KV_BLOCK + p]), acc[r]);   \
            }                                                                                \
            DL_UNROLL for (int r = 0; r < n; r++) V(store)(a->partial[r].o + d, acc[r]);                  \
        }                                                                                    \
    }

/* Turns the scores of row r from a->begin to a->count into exp(score - maximum), and those that it
 * does not see into zeros. Memory would be idle meanwhile, so DL_AHEAD bytes of `next` are
 * prefetched. */
DL_INLINE void DL_FN(dl_softmax_partial)(const dl_attend *a, int r, const char *next)
{
    float *scores = a->scores + r * DL_KV_BLOCK;
    dl_partial *partial = a->partial + r;
    int begin = a->begin, first = a->first[r], limit = a->limit[r], count = a->count;
    VT top = V(set1)(-INFINITY), sum = V(set1)(0.0f);
    for (int p = begin; p < first; p++) scores[p] = -INFINITY;
    for (int p = limit; p < (count + 15) / 16 * 16; p++) scores[p] = -INFINITY;
    for (int p = begin; p < count; p += 16) top = V(max)(top, V(load)(scores + p));
    partial->m = V(hmax)(top);
    VT shift = V(set1)(limit ? partial->m : 0.0f);
    for (int p = begin; p < count; p += 16) {
        __builtin_prefetch(next + 4 * p);
        VT e = DL_FN(dl_exp)(V(sub)(V(load)(scores + p), shift));
        sum = V(add)(sum, e);
        V(store)(scores + p, e);
    }
    partial->l = V(hsum)(sum);
}

#define DL_ATTEND(suffix, score, mix)                                                        \
    DL_INLINE void DL_FN(dl_attend_n_##suffix)(const dl_attend *a, const int n)              \
    {                                                                                        \
        DL_FN(score)(a, n);                                                                  \
        for (int r = 0; a->cap > 0.0f && r < n; r++) {                                       \
            float *row = a->scores + r * DL_KV_BLOCK + a->begin;                             \
            DL_FN(dl_softcap)(row, a->count - a->begin, a->cap, row);                        \
        }                                                                                    \
        DL_UNROLL for (int r = 0; r < n; r++)                                                          \
            DL_FN(dl_softmax_partial)(a, r, (const char *)a->next + DL_AHEAD * r);                     \
        DL_FN(mix)(a, n);                                                                    \
    }                                                                                        \
    static void DL_FN(dl_attend_##suffix)(const dl_attend *a, int n)                         \
    {                                                                                        \
        switch (n) {                                                                         \
        case 1: DL_FN(dl_attend_n_##suffix)(a, 1); break;                                    \
        case 2: DL_FN(dl_attend_n_##suffix)(a, 2); break;                                    \
        case 3: DL_FN(dl_attend_n_##suffix)(a, 3); break;                                    \
        default: DL_FN(dl_attend_n_##suffix)(a, 4); break;                                   \
        }                                                                                    \
    }

DL_SCORES(f32, float, load)
DL_SCORES(f16, uint16_t, load_half)
DL_ROW_SCORES(f32, float, load)
DL_ROW_SCORES(f16, uint16_t, load_half)
DL_MIX(f32, float, load)
DL_MIX(f16, uint16_t, load_half)
#include "attend_q80.inc.h"
DL_ATTEND(f32, dl_scores_f32, dl_mix_f32)
DL_ATTEND(f16, dl_scores_f16, dl_mix_f16)
DL_ATTEND(q80, dl_scores_q80, dl_mix_q80)
DL_ATTEND(shared_f32, dl_row_scores_f32, dl_mix_f32)
DL_ATTEND(shared_f16, dl_row_scores_f16, dl_mix_f16)
DL_ATTEND(shared_q80, dl_scores_q80, dl_mix_keys_q80)
#undef DL_SCORES
#undef DL_ROW_SCORES
#undef DL_MIX
#undef DL_ATTEND

/* into = the partial of the positions of both; n floats of o (online softmax, Milakov and
 * Gimelshein 2018). */
static void DL_FN(dl_attend_merge)(dl_partial *into, const dl_partial *partial, int n)
{
    float m = into->m > partial->m ? into->m : partial->m;
    VT old = DL_FN(dl_exp)(V(set1)(into->m - m)), new = DL_FN(dl_exp)(V(set1)(partial->m - m));
    float factors[2][16];
    V(store)(factors[0], old);
    V(store)(factors[1], new);
    into->l = dl_fmaf(partial->l, factors[1][0], into->l * factors[0][0]);
    into->m = m;
    for (int d = 0; d < n; d += 16)
        V(store)(into->o + d, V(fma)(V(load)(partial->o + d), new, V(mul)(V(load)(into->o + d), old)));
}

/* out[n] = o / l */
static void DL_FN(dl_attend_finish)(const dl_partial *partial, int n, float *out)
{
    VT l = V(set1)(partial->l);
    for (int d = 0; d < n; d += 16)
        DL_FN(dl_store_n)(out + d, V(div)(V(load)(partial->o + d), l), n - d);
}

/* dst[n] = x as half precision, n a multiple of 16 */
static void DL_FN(dl_to_half)(const float *x, int n, uint16_t *dst)
{
    for (int i = 0; i < n; i += 16) V(store_half)(dst + i, V(load)(x + i));
}
