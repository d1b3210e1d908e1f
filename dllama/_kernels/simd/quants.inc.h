/* Encoding and decoding of stored numbers. Compiled once per instruction set. */

/* x[32] = n <= 32 numbers of a source type, then zeros. */
DL_INLINE void DL_FN(dl_widen)(const void *src, int type, int64_t n, float *x)
{
    if (n < 32) memset(x, 0, 32 * sizeof(float));
    if (type == DL_SRC_F32) {
        memcpy(x, src, (size_t)n * sizeof(float));
    } else if (type == DL_SRC_BF16) {
        const uint16_t *p = src;
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)p[i] << 16;
            memcpy(x + i, &bits, sizeof bits);
        }
    } else {
        uint16_t halves[32] = {0};
        memcpy(halves, src, (size_t)n * sizeof(uint16_t));
        V(store)(x, V(load_half)(halves));
        V(store)(x + 16, V(load_half)(halves + 16));
    }
}

/* Not 0 if any of 32 floats is infinite or not a number. */
DL_INLINE int DL_FN(dl_not_finite)(const float *x)
{
    VT zero = V(set1)(0.0f);
    VT product = V(add)(V(mul)(V(load)(x), zero), V(mul)(V(load)(x + 16), zero));
    return V(hsum)(product) != 0.0f; /* zero, or not a number */
}

/* dl_encode_TYPE: one block of 32, or n <= 32 numbers if the type has blocks of one. x[32] is
 * padded with zeros. Returns not 0 if a stored number is not finite. */

DL_INLINE int DL_FN(dl_encode_f32)(const float *x, int64_t n, uint8_t *dst)
{
    memcpy(dst, x, (size_t)n * sizeof(float));
    return 0;
}

DL_INLINE int DL_FN(dl_encode_f16)(const float *x, int64_t n, uint8_t *dst)
{
    uint16_t halves[32];
    int bad = 0;
    V(store_half)(halves, V(load)(x));
    V(store_half)(halves + 16, V(load)(x + 16));
    for (int i = 0; i < 32; i++) bad |= (halves[i] & 0x7c00) == 0x7c00;
    memcpy(dst, halves, (size_t)n * 2);
    return bad;
}

/* The upper half of the bits, rounded to even. */
DL_INLINE int DL_FN(dl_encode_bf16)(const float *x, int64_t n, uint8_t *dst)
{
    uint16_t rounded[32];
    int bad = 0;
    for (int i = 0; i < 32; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        rounded[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        bad |= (rounded[i] & 0x7f80) == 0x7f80;
    }
    memcpy(dst, rounded, (size_t)n * 2);
    return bad;
}

/* d = the value of largest magnitude / -8 (of a tie, the positive one), q = x / d + 8.5 cut to
 * 0..15. Byte i holds q[i] in its low bits and q[i + 16] in its high bits. */
DL_INLINE int DL_FN(dl_encode_q40)(const float *x, int64_t n, uint8_t *dst)
{
    (void)n;
    VT zero = V(set1)(0.0f), a = V(load)(x), b = V(load)(x + 16);
    float high = V(hmax)(V(max)(a, b)) + 0.0f; /* a zero is positive then on every ISA */
    float low = -V(hmax)(V(max)(V(sub)(zero, a), V(sub)(zero, b)));
    float d = (-low > high ? low : high) / -8.0f;
    float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    uint8_t q[32];
    for (int i = 0; i < 32; i++) {
        float shifted = x[i] * inverse + 8.5f;
        shifted = shifted > 0.0f ? shifted : 0.0f;
        q[i] = (uint8_t)(int32_t)(shifted < 15.0f ? shifted : 15.0f);
    }
    uint16_t half = dl_float_to_half(d);
    memcpy(dst, &half, 2);
    for (int i = 0; i < 16; i++) dst[2 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
    return (half & 0x7c00) == 0x7c00;
}

/* d = max|x| / 127, q = x / d rounded half to even */
DL_INLINE int DL_FN(dl_encode_q80)(const float *x, int64_t n, uint8_t *dst)
{
    (void)n;
    VT a = V(load)(x), b = V(load)(x + 16);
    float d = V(hmax)(V(max)(V(abs)(a), V(abs)(b))) / 127.0f;
    VT inverse = V(set1)(d != 0.0f ? 1.0f / d : 0.0f);
    VT top = V(set1)(127.0f), bottom = V(set1)(-127.0f);
    uint16_t half = dl_float_to_half(d);
    memcpy(dst, &half, 2);
    V(store_i8)((int8_t *)dst + 2, V(min)(V(max)(V(round)(V(mul)(a, inverse)), bottom), top));
    V(store_i8)((int8_t *)dst + 2 + 16, V(min)(V(max)(V(round)(V(mul)(b, inverse)), bottom), top));
    return (half & 0x7c00) == 0x7c00;
}

/* Encodes n numbers, which are whole blocks. Returns not 0 if one is not finite, before or after
 * encoding. */
static int DL_FN(dl_encode)(const void *src, int src_type, int64_t n, int type, uint8_t *dst)
{
#define DL_ENCODE_CASE(name) \
    case dl_type_##name: bad |= DL_FN(dl_encode_##name)(x, m, dst + i / dl_block_##name * dl_bytes_##name); break;
    const char *p = src;
    int64_t width = src_type == DL_SRC_F32 ? 4 : 2;
    int bad = 0;
    float x[32];
    for (int64_t i = 0; i < n; i += 32, p += 32 * width) {
        int64_t m = n - i < 32 ? n - i : 32;
        DL_FN(dl_widen)(p, src_type, m, x);
        bad |= DL_FN(dl_not_finite)(x);
        switch (type) { DL_ENCODED_TYPES(DL_ENCODE_CASE) }
    }
    return bad;
#undef DL_ENCODE_CASE
}

/* dl_decode_TYPE: decodes n stored numbers, which are whole blocks. */

DL_INLINE void DL_FN(dl_decode_f32)(const uint8_t *src, int64_t n, float *dst)
{
    memcpy(dst, src, (size_t)n * sizeof(float));
}

DL_INLINE void DL_FN(dl_decode_f16)(const uint8_t *src, int64_t n, float *dst)
{
    for (int64_t i = 0; i < n; i += 32) {
        int64_t m = n - i < 32 ? n - i : 32;
        float x[32];
        DL_FN(dl_widen)(src + i * 2, DL_SRC_F16, m, x);
        memcpy(dst + i, x, (size_t)m * sizeof(float));
    }
}

DL_INLINE void DL_FN(dl_decode_bf16)(const uint8_t *src, int64_t n, float *dst)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)dl_u16_at(src + 2 * i) << 16;
        memcpy(dst + i, &bits, sizeof bits);
    }
}

DL_INLINE float DL_FN(dl_scale_at)(const uint8_t *src)
{
    uint16_t half;
    memcpy(&half, src, 2);
    return dl_half_to_float(half);
}

DL_INLINE void DL_FN(dl_decode_q40)(const uint8_t *src, int64_t n, float *dst)
{
    for (; n > 0; n -= dl_block_q40, src += dl_bytes_q40, dst += dl_block_q40) {
        float d = DL_FN(dl_scale_at)(src);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)((src[2 + j] & 15) - 8);
            dst[j + 16] = d * (float)((src[2 + j] >> 4) - 8);
        }
    }
}

DL_INLINE void DL_FN(dl_decode_q80)(const uint8_t *src, int64_t n, float *dst)
{
    for (; n > 0; n -= dl_block_q80, src += dl_bytes_q80, dst += dl_block_q80) {
        VT d = V(set1)(DL_FN(dl_scale_at)(src));
        V(store)(dst, V(mul)(d, V(load_i8)((const int8_t *)src + 2)));
        V(store)(dst + 16, V(mul)(d, V(load_i8)((const int8_t *)src + 18)));
    }
}

#define DL_DECODE_PIECES(id, name, block, bytes, header, packed, form)                        \
    DL_INLINE void DL_FN(dl_decode_##name)(const uint8_t *src, int64_t n, float *dst)         \
    {                                                                                         \
        for (int64_t i = 0; i < n / 32; i++) {                                                \
            const uint8_t *at = src + i / ((block) / 32) * (bytes);                           \
            dl_piece p = dl_read_##name(at, (int)(i % ((block) / 32)));                       \
            dl_piece_numbers(&p, dst + 32 * i);                                               \
        }                                                                                     \
    }
DL_WORD_TYPES(DL_DECODE_PIECES)
#undef DL_DECODE_PIECES

/* Decodes numbers of any known type. */
static void DL_FN(dl_decode)(const uint8_t *src, int type, int64_t n, float *dst)
{
#define DL_DECODE_CASE(id, name, block, bytes, header, packed, form) \
    case id: DL_FN(dl_decode_##name)(src, n, dst); break;
    switch (type) { DL_WEIGHT_TYPES(DL_DECODE_CASE) }
#undef DL_DECODE_CASE
}
