/* What nodes send to each other. Compiled once per instruction set; wire.h has the contracts. */

/* x[32] = its Walsh-Hadamard transform: numbers 1 apart, then 2, 4, 8 and 16 become their sum and
 * difference; all times `scale`. */
DL_INLINE void DL_FN(dl_rotate32)(float *x, float scale)
{
    VT a = V(hadamard)(V(load)(x)), b = V(hadamard)(V(load)(x + 16)), factor = V(set1)(scale);
    V(store)(x, V(mul)(V(add)(a, b), factor));
    V(store)(x + 16, V(mul)(V(sub)(a, b), factor));
}

/* The same of 64 numbers, and 1 / 8, so that it undoes itself. */
DL_INLINE void DL_FN(dl_rotate64)(float *x)
{
    VT a = V(hadamard)(V(load)(x)), b = V(hadamard)(V(load)(x + 16)), factor = V(set1)(0.125f);
    VT c = V(hadamard)(V(load)(x + 32)), d = V(hadamard)(V(load)(x + 48));
    VT ab = V(add)(a, b), cd = V(add)(c, d), ba = V(sub)(a, b), dc = V(sub)(c, d);
    V(store)(x, V(mul)(V(add)(ab, cd), factor));
    V(store)(x + 16, V(mul)(V(add)(ba, dc), factor));
    V(store)(x + 32, V(mul)(V(sub)(ab, cd), factor));
    V(store)(x + 48, V(mul)(V(sub)(ba, dc), factor));
}

/* Rotates 64 or 32 numbers. The factors are powers of 2, so they round nothing. */
DL_INLINE void DL_FN(dl_rotate)(float *x, int64_t n)
{
    if (n == 64) DL_FN(dl_rotate64)(x);
    else DL_FN(dl_rotate32)(x, 0.25f);
}

DL_INLINE void DL_FN(dl_rotate_back)(float *x, int64_t n)
{
    if (n == 64) DL_FN(dl_rotate64)(x);
    else DL_FN(dl_rotate32)(x, 0.125f);
}

/* One block: d = max|x| / 31, q = x / d rounded half to even, plus 32. Byte j of 16 has the low four
 * bits of q[j] and q[j + 16], byte j of the next 8 the high two of q[j], q[j + 8], q[j + 16], q[j + 24]. */
DL_INLINE void DL_FN(dl_encode_q60)(const float *x, uint8_t *dst)
{
    VT a = V(load)(x), b = V(load)(x + 16);
    float d = V(hmax)(V(max)(V(abs)(a), V(abs)(b))) / 31.0f;
    VT inverse = V(set1)(d != 0.0f ? 1.0f / d : 0.0f);
    VT top = V(set1)(31.0f), bottom = V(set1)(-31.0f);
    uint16_t half = dl_float_to_half(d);
    uint8_t q[32];
    memcpy(dst, &half, 2);
    V(store_i8)((int8_t *)q, V(min)(V(max)(V(round)(V(mul)(a, inverse)), bottom), top));
    V(store_i8)((int8_t *)q + 16, V(min)(V(max)(V(round)(V(mul)(b, inverse)), bottom), top));
    for (int j = 0; j < 32; j++) q[j] = (uint8_t)(q[j] + 32);
    for (int j = 0; j < 16; j++) dst[2 + j] = (uint8_t)((q[j] & 15) | q[j + 16] << 4);
    for (int j = 0; j < 8; j++)
        dst[18 + j] = (uint8_t)(q[j] >> 4 | q[j + 8] >> 4 << 2 | q[j + 16] >> 4 << 4 | q[j + 24] >> 4 << 6);
}

DL_INLINE void DL_FN(dl_decode_q60)(const uint8_t *src, float *x)
{
    VT d = V(set1)(DL_FN(dl_scale_at)(src));
    uint8_t q[32];
    for (int j = 0; j < 16; j++) q[j] = src[2 + j] & 15, q[j + 16] = src[2 + j] >> 4;
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) q[j + 8 * i] |= (uint8_t)((src[18 + j] >> 2 * i & 3) << 4);
    for (int j = 0; j < 32; j++) q[j] = (uint8_t)(q[j] - 32);
    V(store)(x, V(mul)(d, V(load_i8)((const int8_t *)q)));
    V(store)(x + 16, V(mul)(d, V(load_i8)((const int8_t *)q + 16)));
}

DL_INLINE void DL_FN(dl_wire_encode)(const float *x, int64_t n, int wire, uint8_t *dst)
{
    if (wire == dl_wire_q80)
        for (int64_t i = 0; i < n; i += 32) DL_FN(dl_encode_q80)(x + i, 32, dst + i / 32 * 34);
    else if (wire == dl_wire_q60)
        for (int64_t i = 0; i < n; i += 32) DL_FN(dl_encode_q60)(x + i, dst + i / 32 * 26);
    else if (wire == dl_wire_f16)
        DL_FN(dl_encode)(x, DL_SRC_F32, n, dl_type_f16, dst);
    else
        memcpy(dst, x, (size_t)n * sizeof(float));
}

static void DL_FN(dl_wire_decode)(const uint8_t *src, int64_t n, int wire, float *x)
{
    if (wire == dl_wire_q80)
        DL_FN(dl_decode_q80)(src, n, x);
    else if (wire == dl_wire_q60)
        for (int64_t i = 0; i < n; i += 32) DL_FN(dl_decode_q60)(src + i / 32 * 26, x + i);
    else if (wire == dl_wire_f16)
        DL_FN(dl_decode_f16)(src, n, x);
    else
        memcpy(x, src, (size_t)n * sizeof(float));
}

/* x[n] += sign * y */
DL_INLINE void DL_FN(dl_add_times)(float *x, const float *y, float sign, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] += sign * y[i];
}

static void DL_FN(dl_wire_round)(float *x, float *carry, int64_t n, int wire, uint8_t *dst)
{
    if (carry) DL_FN(dl_add_times)(carry, x, 1.0f, n);
    DL_FN(dl_wire_encode)(x, n, wire, dst);
    DL_FN(dl_wire_decode)(dst, n, wire, x);
    if (carry) DL_FN(dl_add_times)(carry, x, -1.0f, n);
}

static void DL_FN(dl_wire_pack)(const float *src, float *carry, int fresh, int64_t n, int wire, uint8_t *dst)
{
    const dl_wire *form = dl_wire_of(wire);
    for (int64_t i = 0; i < n; i += DL_STRIP) {
        float x[DL_STRIP], *left = carry ? carry + i : NULL;
        uint8_t *at = dst + i / form->block * form->bytes;
        int64_t m = n - i < DL_STRIP ? n - i : DL_STRIP;
        memcpy(x, src + i, (size_t)m * sizeof(float));
        if (form->rotated) DL_FN(dl_rotate)(x, m);
        if (left && !fresh) DL_FN(dl_add_times)(x, left, 1.0f, m);
        if (left) memset(left, 0, (size_t)m * sizeof(float)), DL_FN(dl_wire_round)(x, left, m, wire, at);
        else DL_FN(dl_wire_encode)(x, m, wire, at);
    }
}

static void DL_FN(dl_wire_unpack)(float *x, int64_t n, int wire, int add, float *dst)
{
    int rotated = dl_wire_of(wire)->rotated;
    for (int64_t i = 0; i < n; i += DL_STRIP) {
        int64_t m = n - i < DL_STRIP ? n - i : DL_STRIP;
        if (rotated) DL_FN(dl_rotate_back)(x + i, m);
        if (add) DL_FN(dl_add_times)(dst + i, x + i, 1.0f, m);
        else memcpy(dst + i, x + i, (size_t)m * sizeof(float));
    }
}
