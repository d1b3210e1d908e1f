/* Float kernels on vectors of 16. Compiled once per instruction set.
 *
 * n: elements of a row. A tail shorter than 16 is padded with zeros, so the order of a sum only
 * depends on n.
 */

DL_INLINE VT DL_FN(dl_load_n)(const float *p, int64_t n)
{
    float padded[16] = {0};
    if (n >= 16) return V(load)(p);
    memcpy(padded, p, (size_t)n * sizeof(float));
    return V(load)(padded);
}

DL_INLINE void DL_FN(dl_store_n)(float *p, VT v, int64_t n)
{
    float padded[16];
    if (n >= 16) { V(store)(p, v); return; }
    V(store)(padded, v);
    memcpy(p, padded, (size_t)n * sizeof(float));
}

/* e^x, relative error below 3e-7 on (-87, 88]; 0 up to -87, e^88 above 88. Range reduction by
 * ln 2 in two parts and a degree-6 Taylor polynomial (Muller, Elementary Functions, ch. 11). */
DL_INLINE VT DL_FN(dl_exp)(VT x)
{
    VT lowest = V(set1)(-87.0f);
    VT c = V(min)(V(max)(x, lowest), V(set1)(88.0f));
    VT n = V(round)(V(mul)(c, V(set1)(1.44269504f)));
    VT r = V(fma)(n, V(set1)(-0.693359375f), c);
    r = V(fma)(n, V(set1)(2.12194440e-4f), r);
    VT p = V(set1)(1.0f / 720.0f);
    p = V(fma)(p, r, V(set1)(1.0f / 120.0f));
    p = V(fma)(p, r, V(set1)(1.0f / 24.0f));
    p = V(fma)(p, r, V(set1)(1.0f / 6.0f));
    p = V(fma)(p, r, V(set1)(0.5f));
    p = V(fma)(p, r, V(set1)(1.0f));
    p = V(fma)(p, r, V(set1)(1.0f));
    return V(where_gt)(x, lowest, V(scale2)(p, n));
}

/* y[n] = weight * x / sqrt(mean(x^2) + epsilon)  (Zhang and Sennrich 2019, eq. 4) */
static void DL_FN(dl_rmsnorm)(const float *x, const float *weight, float epsilon, int64_t n, float *y)
{
    VT sum = V(set1)(0.0f);
    for (int64_t i = 0; i < n; i += 16) {
        VT v = DL_FN(dl_load_n)(x + i, n - i);
        sum = V(fma)(v, v, sum);
    }
    VT scale = V(set1)(1.0f / sqrtf(V(hsum)(sum) / (float)n + epsilon));
    for (int64_t i = 0; i < n; i += 16) {
        VT v = V(mul)(DL_FN(dl_load_n)(x + i, n - i), scale);
        DL_FN(dl_store_n)(y + i, V(mul)(v, DL_FN(dl_load_n)(weight + i, n - i)), n - i);
    }
}

/* As dl_load_n, padded with `fill`. */
DL_INLINE VT DL_FN(dl_load_or)(const float *p, int64_t n, float fill)
{
    float padded[16];
    if (n >= 16) return V(load)(p);
    V(store)(padded, V(set1)(fill));
    memcpy(padded, p, (size_t)n * sizeof(float));
    return V(load)(padded);
}

/* y[n] = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias; bias may be NULL  (Ba et al. 2016, eq. 4) */
static void DL_FN(dl_layernorm)(const float *x, const float *weight, const float *bias, float epsilon, int64_t n,
                                float *y)
{
    VT sum = V(set1)(0.0f), squares = V(set1)(0.0f);
    for (int64_t i = 0; i < n; i += 16) sum = V(add)(sum, DL_FN(dl_load_n)(x + i, n - i));
    float centre = V(hsum)(sum) / (float)n;
    VT mean = V(set1)(centre);
    for (int64_t i = 0; i < n; i += 16) {
        VT v = V(sub)(DL_FN(dl_load_or)(x + i, n - i, centre), mean);
        squares = V(fma)(v, v, squares);
    }
    VT scale = V(set1)(1.0f / sqrtf(V(hsum)(squares) / (float)n + epsilon));
    for (int64_t i = 0; i < n; i += 16) {
        VT v = V(mul)(V(sub)(DL_FN(dl_load_n)(x + i, n - i), mean), scale);
        VT shift = bias ? DL_FN(dl_load_n)(bias + i, n - i) : V(set1)(0.0f);
        DL_FN(dl_store_n)(y + i, V(fma)(v, DL_FN(dl_load_n)(weight + i, n - i), shift), n - i);
    }
}

/* x * sigmoid(x) */
DL_INLINE VT DL_FN(dl_silu_of)(VT x)
{
    VT e = DL_FN(dl_exp)(V(sub)(V(set1)(0.0f), x));
    return V(div)(x, V(add)(V(set1)(1.0f), e));
}

/* x * (1 + tanh(u)) / 2 = x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
 * (Hendrycks and Gimpel 2016) */
DL_INLINE VT DL_FN(dl_gelu_of)(VT x)
{
    VT a = V(set1)(-1.5957691216f), b = V(set1)(-1.5957691216f * 0.044715f);
    VT e = DL_FN(dl_exp)(V(mul)(x, V(fma)(V(mul)(x, x), b, a)));
    return V(div)(x, V(add)(V(set1)(1.0f), e));
}

/* h[n] = silu(x) */
static void DL_FN(dl_silu)(const float *x, int64_t n, float *h)
{
    for (int64_t i = 0; i < n; i += 16)
        DL_FN(dl_store_n)(h + i, DL_FN(dl_silu_of)(DL_FN(dl_load_n)(x + i, n - i)), n - i);
}

/* h[n] = gelu(x), the tanh approximation */
static void DL_FN(dl_gelu)(const float *x, int64_t n, float *h)
{
    for (int64_t i = 0; i < n; i += 16)
        DL_FN(dl_store_n)(h + i, DL_FN(dl_gelu_of)(DL_FN(dl_load_n)(x + i, n - i)), n - i);
}

/* h[n] = silu(gate) * up  (Shazeer 2020, SwiGLU) */
static void DL_FN(dl_swiglu)(const float *gate, const float *up, int64_t n, float *h)
{
    for (int64_t i = 0; i < n; i += 16) {
        VT s = DL_FN(dl_silu_of)(DL_FN(dl_load_n)(gate + i, n - i));
        DL_FN(dl_store_n)(h + i, V(mul)(s, DL_FN(dl_load_n)(up + i, n - i)), n - i);
    }
}

/* h[n] = gelu(gate) * up  (Shazeer 2020, GEGLU) */
static void DL_FN(dl_geglu)(const float *gate, const float *up, int64_t n, float *h)
{
    for (int64_t i = 0; i < n; i += 16) {
        VT s = DL_FN(dl_gelu_of)(DL_FN(dl_load_n)(gate + i, n - i));
        DL_FN(dl_store_n)(h + i, V(mul)(s, DL_FN(dl_load_n)(up + i, n - i)), n - i);
    }
}

/* h[n] = (u + 1) * g * sigmoid(1.702 g), where g = min(gate, limit) and u is up, clamped to -limit
 * and limit  (OpenAI 2025, gpt-oss model card, section 2.3) */
static void DL_FN(dl_swiglu_clamped)(const float *gate, const float *up, int64_t n, float limit, float *h)
{
    VT one = V(set1)(1.0f), a = V(set1)(-1.702f), top = V(set1)(limit), bottom = V(set1)(-limit);
    for (int64_t i = 0; i < n; i += 16) {
        VT g = V(min)(DL_FN(dl_load_n)(gate + i, n - i), top);
        VT u = V(max)(V(min)(DL_FN(dl_load_n)(up + i, n - i), top), bottom);
        VT s = V(div)(g, V(add)(one, DL_FN(dl_exp)(V(mul)(g, a))));
        DL_FN(dl_store_n)(h + i, V(mul)(V(add)(u, one), s), n - i);
    }
}

/* y[n] = cap * tanh(x / cap), with tanh(u) = 1 - 2 / (e^(2 u) + 1) */
static void DL_FN(dl_softcap)(const float *x, int64_t n, float cap, float *y)
{
    VT one = V(set1)(1.0f), two = V(set1)(2.0f), c = V(set1)(cap), scale = V(set1)(2.0f / cap);
    for (int64_t i = 0; i < n; i += 16) {
        VT e = DL_FN(dl_exp)(V(mul)(DL_FN(dl_load_n)(x + i, n - i), scale));
        DL_FN(dl_store_n)(y + i, V(mul)(c, V(sub)(one, V(div)(two, V(add)(e, one)))), n - i);
    }
}

/* One Q80 block of 32 values: q = rint(x / d), d = max|x| / 127. Returns d rounded to fp16. */
DL_INLINE uint16_t DL_FN(dl_round32)(const float *x, int8_t *q)
{
    VT a = V(load)(x), b = V(load)(x + 16);
    float scale = V(hmax)(V(max)(V(abs)(a), V(abs)(b))) / 127.0f;
    VT inverse = V(set1)(scale > 1e-30f ? 1.0f / scale : 0.0f);
    VT top = V(set1)(127.0f), bottom = V(set1)(-127.0f);
    V(store_i8)(q, V(min)(V(max)(V(round)(V(mul)(a, inverse)), bottom), top));
    V(store_i8)(q + 16, V(min)(V(max)(V(round)(V(mul)(b, inverse)), bottom), top));
    return dl_float_to_half(scale);
}

/* One Q80 block of 32 values. Words of four values of q are `stride` bytes apart. *d is its scale, *s is -8 times the sum of q, *h that of its first half. */
static void DL_FN(dl_quantise32)(const float *x, int8_t *q, int64_t stride, float *d, int32_t *s,
                                   int32_t *h)
{
    int8_t values[32];
    uint16_t half = DL_FN(dl_round32)(x, values);
    int32_t first = 0, rest = 0;
    for (int i = 0; i < 16; i++) first += values[i], rest += values[16 + i];
    for (int j = 0; j < 8; j++) memcpy(q + j * stride, values + 4 * j, 4);
    *d = dl_half_to_float(half);
    *s = -8 * (first + rest), *h = -8 * first;
}

/* Puts nb blocks of one token into a tile of n tokens (layout in tile.h). q, d, s and h point to the
 * token's place in the first block of the tile. */
static void DL_FN(dl_quantise_row)(const float *x, int64_t nb, int n, int8_t *q, float *d, int32_t *s,
                                    int32_t *h)
{
    for (int64_t b = 0; b < nb; b++)
        DL_FN(dl_quantise32)(x + 32 * b, q + 32 * n * b, 4 * n, d + n * b, s + n * b, h + n * b);
}

/* y[n] = e^x */
static void DL_FN(dl_exp_row)(const float *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += 16)
        DL_FN(dl_store_n)(y + i, DL_FN(dl_exp)(DL_FN(dl_load_n)(x + i, n - i)), n - i);
}
