/* Tiles of the types that are unpacked to words (words.h), block by block on the way. Compiled for each
 * instruction set. */

/* DL_ADD_TOKENS adds a block times n tokens, which is only known at run time: here with a function for
 * each n, unless words_ISA.h has a loop over tokens. */
#ifndef DL_ADD_TOKENS
#define DL_ADD_TOKENS(form, b, w, n, acc) DL_FN(dl_adders_##form)[(n) - 1](b, w, acc)
#define DL_ADDER(form, n)                                                                       \
    static void DL_FN(dl_add_##form##_##n)(const dl_block *b, const dl_words *w, VT *acc)       \
    {                                                                                           \
        DL_FN(dl_add_words)(b, w, n, dl_form_has_halves(dl_form_##form), dl_form_has_mins(dl_form_##form), acc); \
    }
#define DL_ADDERS(form)                                                                         \
    DL_ADDER(form, 1) DL_ADDER(form, 2) DL_ADDER(form, 3) DL_ADDER(form, 4)                     \
    DL_ADDER(form, 5) DL_ADDER(form, 6) DL_ADDER(form, 7) DL_ADDER(form, 8)                     \
    static void (*const DL_FN(dl_adders_##form)[])(const dl_block *, const dl_words *, VT *) = { \
        DL_FN(dl_add_##form##_1), DL_FN(dl_add_##form##_2), DL_FN(dl_add_##form##_3), DL_FN(dl_add_##form##_4), \
        DL_FN(dl_add_##form##_5), DL_FN(dl_add_##form##_6), DL_FN(dl_add_##form##_7), DL_FN(dl_add_##form##_8), \
    };
DL_ADDERS(scaled)
DL_ADDERS(offset)
DL_ADDERS(halves)
DL_ADDERS(halves_offset)
#undef DL_ADDERS
#undef DL_ADDER
#endif

/* The end of a segment for n tokens: once for all types. */
static __attribute__((noinline)) void DL_FN(dl_words_done)(DL_VFN(dl_sums) *sums, const dl_segment *g,
                                                          const dl_tile *t, VT *acc, int n)
{
    if (DL_VFN(dl_segment_done)(sums, g, acc, DL_WORD_VECTORS(n))) DL_PUT_WORDS(t, sums->ended++, acc, n);
}

/* A block times groups of DL_TILE_TOKENS; apart: numbers of d from one group to the next. */
#define DL_ADD_GROUPS(form, b, w, n, apart, acc)                                                \
    dl_block group = b;                                                                         \
    for (int first = 0; first < n; first += DL_TILE_TOKENS) {                                   \
        DL_ADD_TOKENS(form, &group, w, DL_TILE_TOKENS, acc + first);                            \
        group.x += 32 * apart, group.d += apart, group.s += apart, group.h += apart;            \
    }

/* each: tokens of a group. Only a single token, which keeps its sum in a register, is known when this is
 * compiled. */
#define DL_WORDS_TILE(id, name, block, bytes, header, packed, form)                             \
    DL_INLINE void DL_FN(dl_tile_##name##_n)(const dl_tile *t, const int n, const int each, const int one) \
    {                                                                                           \
        const int halves = dl_form_has_halves(dl_form_##form), mins = dl_form_has_mins(dl_form_##form); \
        const int64_t apart = t->ldx / 32 * DL_TILE_TOKENS;                                     \
        DL_VFN(dl_sums) sums;                                                                   \
        sums.count = sums.ended = 0;                                                            \
        dl_block b = {.x = t->q, .d = t->d, .s = t->s, .h = t->h};                              \
        const uint8_t *p = t->w + t->headers;                                                   \
        int64_t column = t->skip;                                                               \
        for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {                 \
            VT acc[DL_TILE_MOST], only = V(set1)(0.0f);                                         \
            if (!one) for (int i = 0; i < DL_WORD_VECTORS(n); i++) acc[i] = only;               \
            for (int64_t end = column + g->columns; column < end; column += 32) {               \
                dl_words w;                                                                     \
                dl_fetch(p, packed, t->ahead);                                                  \
                DL_VFN(dl_words_##name)(t->w + column / DL_SUPER_BLOCK * (header), p, &w);      \
                if (one) DL_FN(dl_add_words)(&b, &w, 1, halves, mins, &only);                   \
                else if (each == n) DL_ADD_TOKENS(form, &b, &w, n, acc);                        \
                else { DL_ADD_GROUPS(form, b, &w, n, apart, acc) }                              \
                p += (packed), b.x += 32 * each, b.d += each, b.s += each, b.h += each;         \
            }                                                                                   \
            if (one) acc[0] = only;                                                             \
            DL_FN(dl_words_done)(&sums, g, t, acc, n);                                          \
        }                                                                                       \
    }                                                                                           \
    static void DL_FN(dl_tile_##name)(const dl_tile *t, int n)                                  \
    {                                                                                           \
        if (n == 1) DL_FN(dl_tile_##name##_n)(t, 1, 1, 1);                                      \
        else if (n <= DL_TILE_TOKENS) DL_FN(dl_tile_##name##_n)(t, n, n, 0);                    \
        else DL_FN(dl_tile_##name##_n)(t, n, DL_TILE_TOKENS, 0);                                \
    }
DL_WORD_TYPES(DL_WORDS_TILE)
#undef DL_WORDS_TILE
#undef DL_ADD_GROUPS
#undef DL_ADD_TOKENS
