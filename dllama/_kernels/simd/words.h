/* 32 columns of a panel, unpacked: what the tiles of all types without a tile of their own read.
 *
 * For n tokens, with activations as in tile.h, a block adds to the sum of row r
 *   acc = fma(scale, d * (float)dot, acc)
 *   acc = fma(min, d * (float)sum, acc)     if the form has mins
 * where, with exact integers for the sums of w * x,
 *   scaled, offset          dot = sum of w * x            sum = s
 *   halves, halves_offset   dot = fma(sub[1], sum over columns 16 to 31, sub[0] * (sum over 0 to 15))
 *                           sum = fma(sub_min[1], s - h, sub_min[0] * h)
 *   halves                  has w - 32 in place of w: its sums start at -32 * (sum of x)
 */
#ifndef DL_WORDS_H
#define DL_WORDS_H

#include "pieces.h"

typedef struct {
    uint8_t w[8][64];           /* [j][r][i]: column 4j + i of row r; signed bytes in scaled, 0..31 with mins, 0..63 in halves */
    float scale[16], min[16];   /* min is divided by -8, as s is -8 times a sum */
    float sub[2][16], sub_min[2][16];
} dl_words;

DL_INLINE int dl_form_has_halves(int form) { return form == dl_form_halves || form == dl_form_halves_offset; }
DL_INLINE int dl_form_has_mins(int form) { return form == dl_form_offset || form == dl_form_halves_offset; }

/* The start of a sum of w * x over columns with the sum s, which is -8 times that of x. */
DL_INLINE int32_t dl_start(const int halves, const int mins, int32_t s) { return halves && !mins ? s * 4 : 0; }

#define DL_BODY "words.inc.h"
#include "each_vec.h"

#endif
