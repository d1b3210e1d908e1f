/* The binary tree over lanes: a finished lane merges with equal-sized partial
 * sums to its left, as a binary counter carries. Compiled once per ISA. */

typedef struct { VT sum[4][DL_TILE_TOKENS]; } DL_FN(dl_lanes);

DL_INLINE void DL_FN(dl_lane_done)(DL_FN(dl_lanes) *tree, int lane, VT *acc, int n)
{
    int level = 0;
    for (; lane >> level & 1; level++)
        DL_UNROLL for (int t = 0; t < n; t++) acc[t] = V(add)(tree->sum[level][t], acc[t]);
    DL_UNROLL for (int t = 0; t < n; t++) tree->sum[level][t] = acc[t];
}

DL_INLINE void DL_FN(dl_lanes_store)(DL_FN(dl_lanes) *tree, int lanes, float *out, int n)
{
    int level = 0;
    while (lanes >> level > 1) level++;
    DL_UNROLL for (int t = 0; t < n; t++) V(store)(out + 16 * t, tree->sum[level][t]);
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
