/* Tiles of the types that are unpacked to words (words.h). Compiled for each instruction set.
 *
 * dl_tile_NAME multiplies a panel with one token and unpacks block by block on the way.
 * dl_words_FORM multiplies unpacked panels with 1 to DL_TILE_TOKENS tokens. */

/* words: how to get the words of block b of the panel. */
#define DL_WORDS_TILE(name, form, words)                                                        \
    DL_INLINE void DL_FN(name##_n)(const dl_tile *t, const int n)                               \
    {                                                                                           \
        const int halves = dl_form_has_halves(dl_form_##form), mins = dl_form_has_mins(dl_form_##form); \
        DL_VFN(dl_sums) sums;                                                                   \
        sums.count = sums.ended = 0;                                                            \
        const int vectors = DL_WORD_VECTORS(n);                                                 \
        dl_block b = {.x = t->q, .d = t->d, .s = t->s, .h = t->h};                              \
        int64_t column = 0;                                                                     \
        for (const dl_segment *g = t->order; g < t->order + t->segments; g++) {                 \
            VT acc[DL_TILE_TOKENS];                                                             \
            DL_UNROLL for (int i = 0; i < vectors; i++) acc[i] = V(set1)(0.0f);                 \
            for (int64_t end = column + g->columns; column < end; column += 32) {               \
                words;                                                                          \
                DL_FN(dl_add_words)(&b, w, n, halves, mins, acc);                               \
                b.x += 32 * n, b.d += n, b.s += n, b.h += n;                                    \
            }                                                                                   \
            if (DL_VFN(dl_segment_done)(&sums, g, acc, vectors))                                \
                DL_PUT_WORDS(t, sums.ended++, acc, n);                                          \
        }                                                                                       \
    }

#define DL_UNPACKED(form) const dl_words *w = (const dl_words *)(t->w + column / 32 * dl_words_bytes(dl_form_##form))
DL_WORDS_TILE(dl_words_scaled, scaled, DL_UNPACKED(scaled))
DL_WORDS_TILE(dl_words_offset, offset, DL_UNPACKED(offset))
DL_WORDS_TILE(dl_words_halves, halves, DL_UNPACKED(halves))
DL_WORDS_TILE(dl_words_halves_offset, halves_offset, DL_UNPACKED(halves_offset))
DL_SPECIALISE_WORDS(dl_words_scaled)
DL_SPECIALISE_WORDS(dl_words_offset)
DL_SPECIALISE_WORDS(dl_words_halves)
DL_SPECIALISE_WORDS(dl_words_halves_offset)
#undef DL_UNPACKED

#define DL_PACKED_BLOCK(name, header, packed)                                                   \
    dl_words unpacked, *w = &unpacked;                                                          \
    const uint8_t *p = t->w + t->headers + column / 32 * (packed);                              \
    DL_UNROLL for (int at = 0; at < (packed); at += 64) __builtin_prefetch(p + 2048 + at);      \
    DL_VFN(dl_words_##name)(t->w + (t->skip + column) / DL_SUPER_BLOCK * (header), p, w)
#define DL_PACKED_TILE(id, name, block, bytes, header, packed, form)                            \
    DL_WORDS_TILE(dl_tile_##name, form, DL_PACKED_BLOCK(name, header, packed))                  \
    static void DL_FN(dl_tile_##name)(const dl_tile *t, int n) { (void)n; DL_FN(dl_tile_##name##_n)(t, 1); }
DL_WORD_TYPES(DL_PACKED_TILE)
#undef DL_PACKED_TILE
#undef DL_PACKED_BLOCK
#undef DL_WORDS_TILE
