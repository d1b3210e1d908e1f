/* Unpacking 32 columns of a panel (pieces.h has the layout). Compiled for each kind of vectors. */

#define DL_LANES DL_FN(dl_lanes)

/* to[64] |= `width` bits of each byte of from[64], from bit `at` on, moved to bit `to_bit`; or to = the
 * bits. Shifts of 16 bits do, as bits that cross into another byte are masked. */
DL_INLINE void DL_FN(dl_add_bits)(const uint8_t *from, const int at, const int width, const int to_bit,
                                  const int adds, uint8_t *to)
{
    const uint16_t mask = (uint16_t)((((1 << width) - 1) << to_bit) * 0x101);
    const int right = at > to_bit ? at - to_bit : 0, left = at < to_bit ? to_bit - at : 0;
    DL_UNROLL for (size_t c = 0; c < 64; c += sizeof(DL_LANES)) {
        DL_LANES x, y;
        memcpy(&x, from + c, sizeof x), memcpy(&y, to + c, sizeof y);
        x = (x >> right << left) & mask;
        if (adds) x |= y;
        memcpy(to + c, &x, sizeof x);
    }
}

/* w = the low four bits of numbers */
DL_INLINE const uint8_t *DL_FN(dl_plane4)(const uint8_t *p, dl_words *out)
{
    DL_UNROLL for (int j = 0; j < 4; j++)
        DL_UNROLL for (size_t c = 0; c < 64; c += sizeof(DL_LANES)) {
            DL_LANES x, low, high;
            memcpy(&x, p + 64 * j + c, sizeof x);
            low = x & 0x0f0f, high = x >> 4 & 0x0f0f;
            memcpy(out->w[j] + c, &low, sizeof low), memcpy(out->w[4 + j] + c, &high, sizeof high);
        }
    return p + DL_PLANE4;
}

/* w |= two bits of numbers, from bit `to_bit` on; w = these bits if to_bit is 0 */
DL_INLINE const uint8_t *DL_FN(dl_plane2)(const uint8_t *p, const int to_bit, dl_words *out)
{
    DL_UNROLL for (int j = 0; j < 8; j++)
        DL_FN(dl_add_bits)(p + 64 * (j / 4), 2 * (j % 4), 2, to_bit, to_bit > 0, out->w[j]);
    return p + DL_PLANE2;
}

/* w |= bit `to_bit` of numbers */
DL_INLINE const uint8_t *DL_FN(dl_plane1)(const uint8_t *p, const int to_bit, dl_words *out)
{
    DL_UNROLL for (int j = 0; j < 8; j++) DL_FN(dl_add_bits)(p, j, 1, to_bit, 1, out->w[j]);
    return p + DL_PLANE1;
}

/* w = the values of four bits */
DL_INLINE void DL_FN(dl_plane_of_table)(const uint8_t *p, const int8_t *table, dl_words *out)
{
    DL_FN(dl_plane4)(p, out);
    DL_UNROLL for (int j = 0; j < 8; j++) V(lookup)(table, out->w[j]);
}

DL_INLINE const uint8_t *DL_FN(dl_halves)(const uint8_t *p, float factor, float *out)
{
    V(store)(out, V(mul)(V(load_half)((const uint16_t *)p), V(set1)(factor)));
    return p + 32;
}

/* Scales of a super-block times numbers of each row. */
DL_INLINE void DL_FN(dl_products)(const uint8_t *halves, const uint8_t *numbers, float factor, float *out)
{
    VT scale = V(mul)(V(load_half)((const uint16_t *)halves), V(set1)(factor));
    V(store)(out, V(mul)(scale, V(load_u8)(numbers)));
}

/* a[16] and b[16] = two numbers of six bits for each row. Written at once, since they are read at once. */
DL_INLINE const uint8_t *DL_FN(dl_sixes)(const uint8_t *p, uint8_t *a, uint8_t *b)
{
    typedef uint64_t eights __attribute__((vector_size(16)));
    const uint64_t low = 0x0f0f0f0f0f0f0f0full, two = 0x0303030303030303ull;
    uint64_t high;
    eights x, rest, first, second;
    memcpy(&x, p, 16), memcpy(&high, p + 16, 8);
    rest = (eights){high, high >> 4};
    first = (x & low) | (rest & two) << 4, second = (x >> 4 & low) | (rest >> 2 & two) << 4;
    memcpy(a, &first, 16), memcpy(b, &second, 16);
    return p + DL_SIXES;
}

/* dl_words_NAME: header is that of the columns' super-block. */

DL_INLINE void DL_FN(dl_words_q41)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    (void)header;
    p = DL_FN(dl_halves)(p, 1.0f, out->scale), p = DL_FN(dl_halves)(p, -0.125f, out->min);
    DL_FN(dl_plane4)(p, out);
}

DL_INLINE void DL_FN(dl_words_q50)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    (void)header;
    DL_FN(dl_halves)(p, 2.0f, out->min); /* -16 of the scale */
    p = DL_FN(dl_halves)(p, 1.0f, out->scale);
    DL_FN(dl_plane4)(p + DL_PLANE1, out), DL_FN(dl_plane1)(p, 4, out);
}

DL_INLINE void DL_FN(dl_words_q51)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    (void)header;
    p = DL_FN(dl_halves)(p, 1.0f, out->scale), p = DL_FN(dl_halves)(p, -0.125f, out->min);
    DL_FN(dl_plane4)(p + DL_PLANE1, out), DL_FN(dl_plane1)(p, 4, out);
}

DL_INLINE void DL_FN(dl_words_iq4nl)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    (void)header;
    p = DL_FN(dl_halves)(p, 1.0f, out->scale);
    DL_FN(dl_plane_of_table)(p, dl_table_iq4, out);
}

DL_INLINE void DL_FN(dl_words_mxfp4)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    (void)header;
    for (int r = 0; r < 16; r++) out->scale[r] = dl_half_power(p[r]);
    DL_FN(dl_plane_of_table)(p + 16, dl_table_mxfp4, out);
}

DL_INLINE void DL_FN(dl_words_q2k)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    DL_FN(dl_halves)(header, 1.0f, out->scale), DL_FN(dl_halves)(header + 32, 0.125f, out->min);
    for (int h = 0; h < 2; h++) {
        uint8_t sub[16], sub_min[16];
        for (int r = 0; r < 16; r++) sub[r] = p[16 * h + r] & 15, sub_min[r] = p[16 * h + r] >> 4;
        V(store)(out->sub[h], V(load_u8)(sub)), V(store)(out->sub_min[h], V(load_u8)(sub_min));
    }
    DL_FN(dl_plane2)(p + 32, 0, out);
}

DL_INLINE void DL_FN(dl_words_q3k)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    uint8_t sub[2][16];
    DL_FN(dl_halves)(header, 1.0f, out->scale), DL_FN(dl_halves)(header, 0.5f, out->min); /* -4 of the scale */
    p = DL_FN(dl_sixes)(p, sub[0], sub[1]);
    for (int h = 0; h < 2; h++) {
        VT scale = V(sub)(V(load_u8)(sub[h]), V(set1)(32.0f));
        V(store)(out->sub[h], scale), V(store)(out->sub_min[h], scale);
    }
    DL_FN(dl_plane2)(p + DL_PLANE1, 0, out), DL_FN(dl_plane1)(p, 2, out);
}

DL_INLINE void DL_FN(dl_words_q4k)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    uint8_t sub[16], sub_min[16];
    p = DL_FN(dl_sixes)(p, sub, sub_min);
    DL_FN(dl_products)(header, sub, 1.0f, out->scale), DL_FN(dl_products)(header + 32, sub_min, 0.125f, out->min);
    DL_FN(dl_plane4)(p, out);
}

DL_INLINE void DL_FN(dl_words_q5k)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    uint8_t sub[16], sub_min[16];
    p = DL_FN(dl_sixes)(p, sub, sub_min);
    DL_FN(dl_products)(header, sub, 1.0f, out->scale), DL_FN(dl_products)(header + 32, sub_min, 0.125f, out->min);
    DL_FN(dl_plane4)(p + DL_PLANE1, out), DL_FN(dl_plane1)(p, 4, out);
}

DL_INLINE void DL_FN(dl_words_q6k)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    DL_FN(dl_halves)(header, 1.0f, out->scale);
    for (int h = 0; h < 2; h++) V(store)(out->sub[h], V(load_i8)((const int8_t *)p + 16 * h));
    DL_FN(dl_plane4)(p + 32 + DL_PLANE2, out), DL_FN(dl_plane2)(p + 32, 4, out);
}

DL_INLINE void DL_FN(dl_words_iq4xs)(const uint8_t *header, const uint8_t *p, dl_words *out)
{
    V(store)(out->scale, V(mul)(V(load_half)((const uint16_t *)header), V(load_i8)((const int8_t *)p)));
    DL_FN(dl_plane_of_table)(p + 16, dl_table_iq4, out);
}

/* acc[16] += the scaled sums of one token. dot[h]: sums of w * x, of all columns if the form has no
 * halves. */
DL_INLINE VT DL_FN(dl_add_dots)(const dl_words *w, const int halves, const int mins, const VT *dot, float d,
                                int32_t s, int32_t h, VT acc)
{
    VT sum = dot[0], scale = V(set1)(d);
    if (halves) sum = V(fma)(dot[1], V(load)(w->sub[1]), V(mul)(dot[0], V(load)(w->sub[0])));
    acc = V(fma)(V(mul)(sum, scale), V(load)(w->scale), acc);
    if (!mins) return acc;
    sum = V(set1)((float)s);
    if (halves)
        sum = V(fma)(V(set1)((float)(s - h)), V(load)(w->sub_min[1]),
                     V(mul)(V(set1)((float)h), V(load)(w->sub_min[0])));
    return V(fma)(V(mul)(sum, scale), V(load)(w->min), acc);
}
#undef DL_LANES
