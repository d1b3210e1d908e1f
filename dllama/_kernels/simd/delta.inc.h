/* Gated delta networks (Yang et al. 2024, arXiv 2412.06464) and Mamba-2 (Dao and Gu 2024, arXiv
 * 2405.21060). Compiled once per instruction set.
 *
 * K: numbers of a key. width: numbers of a value, a multiple of 16. n: numbers of a row.
 */

/* y[n] = silu(bias + sum over taps j of w[j] * x[j]), added from the first tap to the last. A row of w
 * has stride floats. y may be one of the rows of x. bias may be NULL. */
static void DL_FN(dl_conv)(const float *const *x, const float *w, int64_t stride, int taps, const float *bias,
                           int64_t n, float *y)
{
    VT one = V(set1)(1.0f), zero = V(set1)(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        VT sum = bias ? DL_FN(dl_load_n)(bias + i, n - i) : zero;
        for (int j = 0; j < taps; j++)
            sum = V(fma)(DL_FN(dl_load_n)(w + j * stride + i, n - i), DL_FN(dl_load_n)(x[j] + i, n - i), sum);
        VT e = DL_FN(dl_exp)(V(sub)(zero, sum));
        DL_FN(dl_store_n)(y + i, V(div)(sum, V(add)(one, e)), n - i);
    }
}

/* S = decay * S; S += outer(k, beta * (v - S^T k)); o[width] = S^T q  (equation 10). state: S as
 * [width / 16][K][16]. Each lane adds in the order of the numbers of a key. */
static void DL_FN(dl_delta)(float *state, const float *q, const float *k, const float *v, int64_t K, int64_t width,
                            float decay, float beta, float *o)
{
    VT g = V(set1)(decay), b = V(set1)(beta);
    for (int64_t d = 0; d < width; d += 16) {
        float *s = state + d * K;
        VT there = V(set1)(0.0f), out = there;
        for (int64_t i = 0; i < K; i++)
            there = V(fma)(V(mul)(V(load)(s + 16 * i), g), V(set1)(k[i]), there);
        VT change = V(mul)(b, V(sub)(V(load)(v + d), there));
        for (int64_t i = 0; i < K; i++) {
            VT now = V(fma)(change, V(set1)(k[i]), V(mul)(V(load)(s + 16 * i), g));
            V(store)(s + 16 * i, now);
            out = V(fma)(now, V(set1)(q[i]), out);
        }
        V(store)(o + d, out);
    }
}

/* S = decay * S + outer(k, v); o[width] = S^T q  (Dao and Gu 2024, section 3). state as in dl_delta. */
static void DL_FN(dl_scan)(float *state, const float *q, const float *k, const float *v, int64_t K, int64_t width,
                           float decay, float *o)
{
    VT g = V(set1)(decay);
    for (int64_t d = 0; d < width; d += 16) {
        float *s = state + d * K;
        VT in = V(load)(v + d), out = V(set1)(0.0f);
        for (int64_t i = 0; i < K; i++) {
            VT now = V(fma)(in, V(set1)(k[i]), V(mul)(V(load)(s + 16 * i), g));
            V(store)(s + 16 * i, now);
            out = V(fma)(now, V(set1)(q[i]), out);
        }
        V(store)(o + d, out);
    }
}

/* The sum of x[n]^2. */
static float DL_FN(dl_squares)(const float *x, int64_t n)
{
    VT sum = V(set1)(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        VT v = DL_FN(dl_load_n)(x + i, n - i);
        sum = V(fma)(v, v, sum);
    }
    return V(hsum)(sum);
}

/* y[n] = x * sigmoid(gate)  (Qiu et al. 2025, arXiv 2505.06708) */
static void DL_FN(dl_gate)(const float *x, const float *gate, int64_t n, float *y)
{
    VT one = V(set1)(1.0f), zero = V(set1)(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        VT e = DL_FN(dl_exp)(V(sub)(zero, DL_FN(dl_load_n)(gate + i, n - i)));
        DL_FN(dl_store_n)(y + i, V(div)(DL_FN(dl_load_n)(x + i, n - i), V(add)(one, e)), n - i);
    }
}
