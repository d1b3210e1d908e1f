/* The tree over segments: waiting sums are on a stack, the nearest on top. Compiled once per
 * instruction set. */

typedef struct {
    VT sum[DL_SUMS][DL_TILE_MOST];
    int count;  /* sums that wait */
    int ended;  /* sums written */
} DL_FN(dl_sums);

/* Adds waiting sums to the sum acc[n] of a segment. Returns whether to write the result to out;
 * otherwise it waits. */
DL_INLINE int DL_FN(dl_segment_done)(DL_FN(dl_sums) *s, const dl_segment *g, VT *acc, int n)
{
    for (int adds = g->adds; adds > 0; adds--) {
        s->count--;
        DL_UNROLL for (int t = 0; t < n; t++) acc[t] = V(add)(s->sum[s->count][t], acc[t]);
    }
    if (g->ends) return 1;
    DL_UNROLL for (int t = 0; t < n; t++) s->sum[s->count][t] = acc[t];
    s->count++;
    return 0;
}

/* Writes sum number `index` of token t. */
DL_INLINE void DL_FN(dl_put_sum)(const dl_tile *tile, int t, int index, VT sum)
{
    float *out = tile->out[t] + index * tile->out_stride;
    if (tile->factors) sum = V(fma)(V(set1)(tile->factors[t]), sum, V(load)(out));
    V(store)(out, sum);
}

DL_INLINE void DL_FN(dl_put_sums)(const dl_tile *tile, int index, const VT *acc, int n)
{
    DL_UNROLL for (int t = 0; t < n; t++) DL_FN(dl_put_sum)(tile, t, index, acc[t]);
}

#define DL_SPECIALISE(name)                                          \
    static void DL_FN(name)(const dl_tile *t, int n)                 \
    {                                                                \
        switch (n) {                                                 \
        case 1: DL_FN(name##_n)(t, 1); break;                        \
        case 2: DL_FN(name##_n)(t, 2); break;                        \
        case 3: DL_FN(name##_n)(t, 3); break;                        \
        case 4: DL_FN(name##_n)(t, 4); break;                        \
        case 5: DL_FN(name##_n)(t, 5); break;                        \
        case 6: DL_FN(name##_n)(t, 6); break;                        \
        case 7: DL_FN(name##_n)(t, 7); break;                        \
        default: DL_FN(name##_n)(t, 8); break;                       \
        }                                                            \
    }
