/* Words times tokens in portable C. Those of other instruction sets must give the same bits. */
#ifndef DL_WORDS_BASELINE_H
#define DL_WORDS_BASELINE_H

DL_INLINE void dl_add_words_baseline(const dl_block *b, const dl_words *w, const int n, const int halves,
                                     const int mins, v16_baseline *acc)
{
    for (int i = 0; i < n; i++) {
        v16_baseline dot[2] = {{{0}}, {{0}}};
        for (int r = 0; r < 16; r++) {
            int32_t sums[2] = {dl_start(halves, mins, b->h[i]), dl_start(halves, mins, b->s[i] - b->h[i])};
            for (int j = 0; j < 8; j++)
                for (int e = 0; e < 4; e++)
                    sums[halves ? j / 4 : 0] += (int8_t)w->w[j][4 * r + e] * b->x[(j * n + i) * 4 + e];
            dot[0].f[r] = (float)sums[0], dot[1].f[r] = (float)sums[1];
        }
        acc[i] = dl_add_dots_baseline(w, halves, mins, dot, b->d[i], b->s[i], b->h[i], acc[i]);
    }
}

/* Speed does not matter here as much as the size of the program. */
#define DL_ADD_TOKENS(form, b, w, n, acc) \
    dl_add_words_baseline(b, w, n, dl_form_has_halves(dl_form_##form), dl_form_has_mins(dl_form_##form), acc)
#endif
