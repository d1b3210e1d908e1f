/* Scales of least weighted squared error. Included by search.inc.h, once per instruction set.
 *
 * x[n]: numbers; w[n]: how much the squared error of each counts. n is a multiple of 16.
 */

/* The integers that a block can hold: lo to hi, or the 16 of a table. */
typedef struct {
    float lo, hi;
    const int8_t *table;
} DL_FN(dl_grid);

/* The numbers of the grid that are nearest to y. */
DL_INLINE VT DL_FN(dl_nearest)(VT y, const DL_FN(dl_grid) *g)
{
    if (!g->table) return V(min)(V(max)(V(round)(y), V(set1)(g->lo)), V(set1)(g->hi));
    VT q = V(set1)(g->table[0]);
    for (int i = 1; i < 16; i++) {
        VT middle = V(set1)(0.5f * (float)(g->table[i - 1] + g->table[i]));
        q = V(add)(q, V(where_gt)(y, middle, V(set1)((float)(g->table[i] - g->table[i - 1]))));
    }
    return q;
}

DL_INLINE float DL_FN(dl_inverse)(float x)
{
    return x != 0.0f ? 1.0f / x : 0.0f;
}

/* q[n] = the numbers of the grid nearest to (x - min) / scale */
DL_INLINE void DL_FN(dl_put_nearest)(const float *x, int n, float scale, float min,
                                     const DL_FN(dl_grid) *g, int8_t *q)
{
    VT inverse = V(set1)(DL_FN(dl_inverse)(scale)), m = V(set1)(min);
    for (int i = 0; i < n; i += 16)
        V(store_i8)(q + i, DL_FN(dl_nearest)(V(mul)(V(sub)(V(load)(x + i), m), inverse), g));
}

/* Weighted sums over x and over q, which is nearest to (x - min) * inverse. */
typedef struct { float w, x, q, qq, xq; } DL_FN(dl_moments);

DL_INLINE DL_FN(dl_moments) DL_FN(dl_moments_of)(const float *x, const float *w, int n,
                                                 float inverse, float min, const DL_FN(dl_grid) *g)
{
    VT sw = V(set1)(0.0f), sx = sw, sq = sw, sqq = sw, sxq = sw;
    for (int i = 0; i < n; i += 16) {
        VT a = V(load)(x + i), u = V(load)(w + i);
        VT q = DL_FN(dl_nearest)(V(mul)(V(sub)(a, V(set1)(min)), V(set1)(inverse)), g);
        VT uq = V(mul)(u, q);
        sw = V(add)(sw, u), sx = V(fma)(u, a, sx), sq = V(add)(sq, uq);
        sqq = V(fma)(uq, q, sqq), sxq = V(fma)(uq, a, sxq);
    }
    return (DL_FN(dl_moments)){V(hsum)(sw), V(hsum)(sx), V(hsum)(sq), V(hsum)(sqq), V(hsum)(sxq)};
}

/* Sum of w (x - s q - m)^2, where q is nearest. */
DL_INLINE float DL_FN(dl_error)(const float *x, const float *w, int n, float s, float m,
                                const DL_FN(dl_grid) *g)
{
    VT inverse = V(set1)(DL_FN(dl_inverse)(s)), sum = V(set1)(0.0f);
    for (int i = 0; i < n; i += 16) {
        VT a = V(sub)(V(load)(x + i), V(set1)(m));
        VT e = V(sub)(a, V(mul)(V(set1)(s), DL_FN(dl_nearest)(V(mul)(a, inverse), g)));
        sum = V(fma)(V(mul)(V(load)(w + i), e), e, sum);
    }
    return V(hsum)(sum);
}

/* The largest and the least of x. */
DL_INLINE void DL_FN(dl_range)(const float *x, int n, float *top, float *bottom)
{
    VT zero = V(set1)(0.0f), high = V(load)(x), low = V(sub)(zero, high);
    for (int i = 16; i < n; i += 16) {
        VT a = V(load)(x + i);
        high = V(max)(high, a), low = V(max)(low, V(sub)(zero, a));
    }
    *top = V(hmax)(high) + 0.0f, *bottom = -(V(hmax)(low) + 0.0f);
}

/* The value of largest magnitude; of a tie, the positive one. */
DL_INLINE float DL_FN(dl_extreme)(const float *x, int n)
{
    float top, bottom;
    DL_FN(dl_range)(x, n, &top, &bottom);
    return -bottom > top ? bottom : top;
}

/* How many steps a search takes, and the range that it covers: the ends of the grid times a ratio
 * stand for the largest numbers of a block. A ratio above 1 cuts those off. */
typedef struct {
    float from, to;
    int steps;
} DL_FN(dl_reach);

DL_INLINE float DL_FN(dl_ratio)(const DL_FN(dl_reach) *r, int step)
{
    return r->from + (r->to - r->from) * (float)step / (float)r->steps;
}

/* The scale of x = scale q of least error. The number of largest magnitude is at either end of the
 * grid. The best of these scales is refined twice. */
static float DL_FN(dl_fit_scale)(const float *x, const float *w, int n, const DL_FN(dl_grid) *g,
                                 const DL_FN(dl_reach) *r)
{
    float extreme = DL_FN(dl_extreme)(x, n), best = 0.0f, scale = 0.0f;
    int tried = 2 * (r->steps + 1);
    for (int k = 0; k < tried + 2 && extreme != 0.0f; k++) {
        float end = (k & 1 ? g->lo : g->hi) * DL_FN(dl_ratio)(r, k / 2);
        float inverse = k < tried ? end / extreme : DL_FN(dl_inverse)(scale);
        DL_FN(dl_moments) t = DL_FN(dl_moments_of)(x, w, n, inverse, 0.0f, g);
        float s = t.qq > 0.0f ? t.xq / t.qq : 0.0f, gain = s * t.xq;
        if (gain > best) best = gain, scale = s;
    }
    return scale;
}

/* The line x = s q + m of least error for given q, with m <= most; m = 0 if all q are alike. Returns
 * by how much its error is less than that of x = 0. */
DL_INLINE float DL_FN(dl_line)(const DL_FN(dl_moments) *t, float most, float *s, float *m)
{
    float det = t->w * t->qq - t->q * t->q;
    *s = t->qq > 0.0f ? t->xq / t->qq : 0.0f, *m = 0.0f;
    if (det > 1e-6f * t->w * t->qq) {
        *s = (t->w * t->xq - t->x * t->q) / det;
        *m = (t->qq * t->x - t->q * t->xq) / det;
    }
    if (*m > most) *m = most, *s = t->qq > 0.0f ? (t->xq - most * t->q) / t->qq : 0.0f;
    return *s * (2.0f * t->xq - *s * t->qq - 2.0f * *m * t->q) + *m * (2.0f * t->x - *m * t->w);
}

/* The line x = s q + m of least error, with q = 0..hi and m <= most. Where the largest numbers are
 * cut off, the least are not, or both alike. */
static void DL_FN(dl_fit_line)(const float *x, const float *w, int n, const DL_FN(dl_grid) *g,
                               float most, const DL_FN(dl_reach) *r, float *scale, float *min)
{
    float top, bottom, best = -INFINITY;
    DL_FN(dl_range)(x, n, &top, &bottom);
    bottom = bottom > most ? most : bottom;
    *scale = 0.0f, *min = bottom;
    for (int k = 0; k < 2 * (r->steps + 1) && top > bottom; k++) {
        float width = (top - bottom) / DL_FN(dl_ratio)(r, k / 2), inverse = g->hi / width;
        float m = k & 1 ? 0.5f * (top + bottom - width) : bottom, s;
        m = m > most ? most : m;
        for (int round = 0; round < 2; round++) {
            DL_FN(dl_moments) t = DL_FN(dl_moments_of)(x, w, n, inverse, m, g);
            float gain = DL_FN(dl_line)(&t, most, &s, &m);
            if (!(s > 0.0f)) break;
            if (gain > best) best = gain, *scale = s, *min = m;
            inverse = 1.0f / s;
        }
    }
}
