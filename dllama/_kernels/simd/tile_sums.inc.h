/* The tree over segments: sums that wait lie on a stack, the nearest on top. Compiled once per ISA. */

typedef struct { VT sum[DL_SUMS][DL_TILE_TOKENS]; int count; } DL_FN(dl_sums);

DL_INLINE void DL_FN(dl_segment_done)(DL_FN(dl_sums) *s, int adds, VT *acc, int n)
{
    for (; adds > 0; adds--) {
        s->count--;
        DL_UNROLL for (int t = 0; t < n; t++) acc[t] = V(add)(s->sum[s->count][t], acc[t]);
    }
    DL_UNROLL for (int t = 0; t < n; t++) s->sum[s->count][t] = acc[t];
    s->count++;
}

DL_INLINE void DL_FN(dl_sums_store)(const DL_FN(dl_sums) *s, float *out, int n)
{
    DL_UNROLL for (int t = 0; t < n; t++) V(store)(out + 16 * t, s->sum[0][t]);
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
