/* Stored numbers of the types whose matmul is in words.h: how 32 columns of a row lie in the blocks
 * of a file, and how they are packed as row r (0..15) of a panel.
 *
 * In a panel, 256 columns have a header of 16 float16 scales, and 16 mins if the type has mins.
 * Headers come first. Then every 32 columns have, in the order in which dl_pack_NAME writes them,
 * scales of their own and planes of the bits of their numbers q. Column 4j + i of row r is in
 *   DL_PLANE4  byte [j % 4][r][i], its low four bits for j < 4, else its high four bits
 *   DL_PLANE2  byte [j / 4][r][i], two bits from bit 2 (j % 4) on
 *   DL_PLANE1  byte [r][i], bit j
 */
#ifndef DL_PIECES_H
#define DL_PIECES_H

#include <string.h>
#include "half.h"
#include "isa.h"
#include "types.h"

enum { DL_PLANE1 = 64, DL_PLANE2 = 128, DL_PLANE4 = 256 }; /* bytes of a plane */
enum { DL_SIXES = 24 }; /* bytes of two numbers of six bits for each row */

/* 32 columns of a row. A number is scale * sub[h] * value + min * sub_min[h], where h is 0 for the
 * first 16 columns, and value is q - zero, or table[q] if there is a table. */
typedef struct {
    uint8_t q[32];
    uint16_t d, m;        /* scale and min of the block in float16 */
    float scale, min;     /* the same numbers; for MXFP4, scale is not float16 */
    int sub[2], sub_min[2];
    uint8_t stored[2];    /* scales of these columns as a panel holds them */
    int zero;
    const int8_t *table;
} dl_piece;

/* The values of IQ4_NL and IQ4_XS, and twice those of MXFP4 (E2M1, OCP Microscaling Formats). */
static const int8_t dl_table_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t dl_table_mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Half of 2^(e - 127); infinite for 255, which stands for NaN. */
DL_INLINE float dl_half_power(uint8_t e)
{
    uint32_t bits = (uint32_t)e << 23;
    bits = bits > 0x00400000u ? bits : 0x00400000u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value * 0.5f;
}

DL_INLINE uint16_t dl_u16_at(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, 2);
    return value;
}

DL_INLINE dl_piece dl_piece_of(uint16_t d, uint16_t m)
{
    return (dl_piece){.d = d, .m = m, .scale = dl_half_to_float(d), .min = dl_half_to_float(m),
                      .sub = {1, 1}, .sub_min = {1, 1}};
}

/* q of a block of 32: low four bits of column j and of column 16 + j. */
DL_INLINE void dl_read_nibbles(const uint8_t *p, uint8_t *q)
{
    for (int j = 0; j < 16; j++) q[j] = p[j] & 15, q[16 + j] = p[j] >> 4;
}

/* Bit 4 of q: bit j of a word belongs to column j. */
DL_INLINE void dl_read_fifth(const uint8_t *p, uint8_t *q)
{
    uint32_t bits;
    memcpy(&bits, p, 4);
    for (int j = 0; j < 32; j++) q[j] |= (uint8_t)((bits >> j & 1) << 4);
}

/* Piece i (0..7) of a super-block: 32 numbers, which share their bytes with other pieces. Adds
 * `width` bits from bit `at` of each byte on to q, from bit `to` on. */
DL_INLINE void dl_read_bits(const uint8_t *p, int at, int width, int to, uint8_t *q)
{
    for (int j = 0; j < 32; j++) q[j] |= (uint8_t)((p[j] >> at & ((1 << width) - 1)) << to);
}

/* dl_read_NAME: piece i of a block. */

DL_INLINE dl_piece dl_read_q41(const uint8_t *src, int i)
{
    (void)i;
    dl_piece p = dl_piece_of(dl_u16_at(src), dl_u16_at(src + 2));
    dl_read_nibbles(src + 4, p.q);
    return p;
}

DL_INLINE dl_piece dl_read_q50(const uint8_t *src, int i)
{
    (void)i;
    dl_piece p = dl_piece_of(dl_u16_at(src), 0);
    dl_read_nibbles(src + 6, p.q), dl_read_fifth(src + 2, p.q);
    p.zero = 16;
    return p;
}

DL_INLINE dl_piece dl_read_q51(const uint8_t *src, int i)
{
    (void)i;
    dl_piece p = dl_piece_of(dl_u16_at(src), dl_u16_at(src + 2));
    dl_read_nibbles(src + 8, p.q), dl_read_fifth(src + 4, p.q);
    return p;
}

DL_INLINE dl_piece dl_read_iq4nl(const uint8_t *src, int i)
{
    (void)i;
    dl_piece p = dl_piece_of(dl_u16_at(src), 0);
    dl_read_nibbles(src + 2, p.q);
    p.table = dl_table_iq4;
    return p;
}

DL_INLINE dl_piece dl_read_mxfp4(const uint8_t *src, int i)
{
    (void)i;
    dl_piece p = dl_piece_of(0, 0);
    p.scale = dl_half_power(src[0]), p.stored[0] = src[0];
    dl_read_nibbles(src + 1, p.q);
    p.table = dl_table_mxfp4;
    return p;
}

/* scales[16]: scale in the low four bits, min in the high ones; qs[64]; d; dmin. */
DL_INLINE dl_piece dl_read_q2k(const uint8_t *src, int i)
{
    dl_piece p = dl_piece_of(dl_u16_at(src + 80), dl_u16_at(src + 82));
    dl_read_bits(src + 16 + 32 * (i / 4), 2 * (i % 4), 2, 0, p.q);
    for (int h = 0; h < 2; h++) {
        p.stored[h] = src[2 * i + h];
        p.sub[h] = p.stored[h] & 15, p.sub_min[h] = -(p.stored[h] >> 4);
    }
    return p;
}

/* hmask[32], qs[64], scales[12], d. The scales have six bits: four of scale s are in byte s % 8,
 * two in byte 8 + s % 4. */
DL_INLINE dl_piece dl_read_q3k(const uint8_t *src, int i)
{
    dl_piece p = dl_piece_of(dl_u16_at(src + 108), 0);
    dl_read_bits(src + 32 + 32 * (i / 4), 2 * (i % 4), 2, 0, p.q);
    dl_read_bits(src, i, 1, 2, p.q);
    for (int h = 0; h < 2; h++) {
        int s = 2 * i + h, low = src[96 + s % 8] >> 4 * (s / 8), high = src[104 + s % 4] >> 2 * (s / 4);
        p.stored[h] = (uint8_t)((low & 15) | (high & 3) << 4);
        p.sub[h] = p.stored[h] - 32;
    }
    p.zero = 4;
    return p;
}

/* Scale and min number i of Q4_K and Q5_K, six bits each, in 12 bytes. */
DL_INLINE void dl_read_sixes(const uint8_t *p, int i, uint8_t *stored)
{
    if (i < 4) {
        stored[0] = p[i] & 63, stored[1] = p[i + 4] & 63;
    } else {
        stored[0] = (uint8_t)((p[i + 4] & 15) | (p[i - 4] >> 6) << 4);
        stored[1] = (uint8_t)((p[i + 4] >> 4) | (p[i] >> 6) << 4);
    }
}

/* d, dmin, scales[12], then fifth bits[32] in Q5_K, qs[128]: pieces 2c and 2c + 1 share 32 bytes. */
DL_INLINE dl_piece dl_read_k(const uint8_t *src, int i, const uint8_t *qs)
{
    dl_piece p = dl_piece_of(dl_u16_at(src), dl_u16_at(src + 2));
    dl_read_bits(qs + 32 * (i / 2), 4 * (i % 2), 4, 0, p.q);
    dl_read_sixes(src + 4, i, p.stored);
    p.sub[0] = p.sub[1] = p.stored[0], p.sub_min[0] = p.sub_min[1] = -p.stored[1];
    return p;
}

DL_INLINE dl_piece dl_read_q4k(const uint8_t *src, int i) { return dl_read_k(src, i, src + 16); }

DL_INLINE dl_piece dl_read_q5k(const uint8_t *src, int i)
{
    dl_piece p = dl_read_k(src, i, src + 48);
    dl_read_bits(src + 16, i, 1, 4, p.q);
    return p;
}

/* ql[128], qh[64], int8 scales[16], d. Half a super-block: pieces k and k + 2 share bytes of ql, all
 * four share those of qh. */
DL_INLINE dl_piece dl_read_q6k(const uint8_t *src, int i)
{
    int half = i / 4, k = i % 4;
    dl_piece p = dl_piece_of(dl_u16_at(src + 208), 0);
    dl_read_bits(src + 64 * half + 32 * (k % 2), 4 * (k / 2), 4, 0, p.q);
    dl_read_bits(src + 128 + 32 * half, 2 * k, 2, 4, p.q);
    for (int h = 0; h < 2; h++) p.stored[h] = src[192 + 2 * i + h], p.sub[h] = (int8_t)p.stored[h];
    p.zero = 32;
    return p;
}

/* d, scales_h (16 bits), scales_l[4], qs[128]. */
DL_INLINE dl_piece dl_read_iq4xs(const uint8_t *src, int i)
{
    dl_piece p = dl_piece_of(dl_u16_at(src), 0);
    int low = src[4 + i / 2] >> 4 * (i % 2), high = dl_u16_at(src + 2) >> 2 * i;
    p.sub[0] = p.sub[1] = ((low & 15) | (high & 3) << 4) - 32;
    p.stored[0] = (uint8_t)p.sub[0];
    dl_read_nibbles(src + 8 + 16 * i, p.q);
    p.table = dl_table_iq4;
    return p;
}

/* x[32] = the numbers of a piece. */
DL_INLINE void dl_piece_numbers(const dl_piece *p, float *x)
{
    for (int j = 0; j < 32; j++) {
        int h = j / 16, value = p->table ? p->table[p->q[j]] : p->q[j] - p->zero;
        x[j] = p->scale * (float)p->sub[h] * (float)value + p->min * (float)p->sub_min[h];
    }
}

/* Not 0 if a scale or min is not finite. */
DL_INLINE int dl_piece_is_bad(const dl_piece *p)
{
    return (p->d & 0x7c00) == 0x7c00 || (p->m & 0x7c00) == 0x7c00 || p->scale - p->scale != 0.0f;
}

/* Writing a piece as row r of a panel; each returns the address after what it wrote. */

DL_INLINE uint8_t *dl_put_half(uint8_t *dst, int r, uint16_t value)
{
    memcpy(dst + 2 * r, &value, 2);
    return dst + 32;
}

DL_INLINE uint8_t *dl_put_byte(uint8_t *dst, int r, uint8_t value)
{
    dst[r] = value;
    return dst + 16;
}

/* Two numbers of six bits: low four bits of both in a byte, the rest in half a byte. */
DL_INLINE uint8_t *dl_put_sixes(uint8_t *dst, int r, const uint8_t *stored)
{
    int shift = r / 8 * 4, high = stored[0] >> 4 | stored[1] >> 4 << 2;
    dst[r] = (uint8_t)((stored[0] & 15) | (stored[1] & 15) << 4);
    dst[16 + r % 8] = (uint8_t)((dst[16 + r % 8] & ~(15 << shift)) | high << shift);
    return dst + DL_SIXES;
}

DL_INLINE uint8_t *dl_put_plane4(uint8_t *dst, int r, const uint8_t *q)
{
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++)
            dst[(j * 16 + r) * 4 + i] = (uint8_t)((q[4 * j + i] & 15) | (q[16 + 4 * j + i] & 15) << 4);
    return dst + DL_PLANE4;
}

/* Two bits of q from bit `at` on. */
DL_INLINE uint8_t *dl_put_plane2(uint8_t *dst, int r, const uint8_t *q, int at)
{
    for (int part = 0; part < 2; part++)
        for (int i = 0; i < 4; i++) {
            int byte = 0;
            for (int j = 0; j < 4; j++) byte |= (q[16 * part + 4 * j + i] >> at & 3) << 2 * j;
            dst[part * 64 + r * 4 + i] = (uint8_t)byte;
        }
    return dst + DL_PLANE2;
}

/* Bit `at` of q. */
DL_INLINE uint8_t *dl_put_plane1(uint8_t *dst, int r, const uint8_t *q, int at)
{
    for (int i = 0; i < 4; i++) {
        int byte = 0;
        for (int j = 0; j < 8; j++) byte |= (q[4 * j + i] >> at & 1) << j;
        dst[r * 4 + i] = (uint8_t)byte;
    }
    return dst + DL_PLANE1;
}

/* dl_put_NAME: the piece's part of the header, then of its 32 columns. */

DL_INLINE void dl_put_q41(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    (void)header;
    dst = dl_put_half(dst, r, p->d), dst = dl_put_half(dst, r, p->m);
    dl_put_plane4(dst, r, p->q);
}

DL_INLINE void dl_put_q50(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    (void)header;
    dst = dl_put_plane1(dl_put_half(dst, r, p->d), r, p->q, 4);
    dl_put_plane4(dst, r, p->q);
}

DL_INLINE void dl_put_q51(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    (void)header;
    dst = dl_put_half(dst, r, p->d), dst = dl_put_half(dst, r, p->m);
    dl_put_plane4(dl_put_plane1(dst, r, p->q, 4), r, p->q);
}

DL_INLINE void dl_put_iq4nl(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    (void)header;
    dl_put_plane4(dl_put_half(dst, r, p->d), r, p->q);
}

DL_INLINE void dl_put_mxfp4(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    (void)header;
    dl_put_plane4(dl_put_byte(dst, r, p->stored[0]), r, p->q);
}

DL_INLINE void dl_put_q2k(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    dl_put_half(dl_put_half(header, r, p->d), r, p->m);
    dst = dl_put_byte(dst, r, p->stored[0]), dst = dl_put_byte(dst, r, p->stored[1]);
    dl_put_plane2(dst, r, p->q, 0);
}

DL_INLINE void dl_put_q3k(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    dl_put_half(header, r, p->d);
    dst = dl_put_plane1(dl_put_sixes(dst, r, p->stored), r, p->q, 2);
    dl_put_plane2(dst, r, p->q, 0);
}

DL_INLINE void dl_put_q4k(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    dl_put_half(dl_put_half(header, r, p->d), r, p->m);
    dl_put_plane4(dl_put_sixes(dst, r, p->stored), r, p->q);
}

DL_INLINE void dl_put_q5k(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    dl_put_half(dl_put_half(header, r, p->d), r, p->m);
    dst = dl_put_plane1(dl_put_sixes(dst, r, p->stored), r, p->q, 4);
    dl_put_plane4(dst, r, p->q);
}

DL_INLINE void dl_put_q6k(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    dl_put_half(header, r, p->d);
    dst = dl_put_byte(dst, r, p->stored[0]), dst = dl_put_byte(dst, r, p->stored[1]);
    dl_put_plane4(dl_put_plane2(dst, r, p->q, 4), r, p->q);
}

DL_INLINE void dl_put_iq4xs(const dl_piece *p, int r, uint8_t *header, uint8_t *dst)
{
    dl_put_half(header, r, p->d);
    dl_put_plane4(dl_put_byte(dst, r, p->stored[0]), r, p->q);
}

/* dl_pack_NAME: packs k columns of a row as row r of a panel. src begins with the block of the first
 * column, which is column `skip` of it. Returns not 0 if a scale is not finite. */
#define DL_PACK_PIECES(id, name, block, bytes, header, packed, form)                              \
    DL_INLINE int dl_pack_##name(int64_t skip, int64_t k, int r, const uint8_t *src, uint8_t *panel) \
    {                                                                                             \
        uint8_t *dst = panel + dl_panel_headers(id, skip, k);                                     \
        int bad = 0;                                                                              \
        for (int64_t i = skip / 32; i < (skip + k) / 32; i++, dst += (packed)) {                  \
            dl_piece p = dl_read_##name(src + i / ((block) / 32) * (bytes), (int)(i % ((block) / 32))); \
            dl_put_##name(&p, r, panel + i / (DL_SUPER_BLOCK / 32) * (header), dst);              \
            bad |= dl_piece_is_bad(&p);                                                           \
        }                                                                                         \
        return bad;                                                                               \
    }
DL_WORD_TYPES(DL_PACK_PIECES)
#undef DL_PACK_PIECES

#endif
