/* Loops over n logits. Compiled once per instruction set. */

/* Whether no logit is NaN or +infinity. A token with -infinity is never chosen. */
static int DL_FN(dl_usable)(const float *logits, int64_t n)
{
    const uint32_t infinity = 0x7f800000u;
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, sizeof bits);
        bad |= ((bits & 0x7fffffffu) >= infinity) & (bits != (infinity | 0x80000000u));
    }
    return !bad;
}

/* The largest of n > 0 logits, none of which is NaN. */
static float DL_FN(dl_top)(const float *logits, int64_t n)
{
    float top = logits[0];
    int64_t i = 0;
    if (n >= 16) {
        VT most = V(load)(logits);
        for (i = 16; i + 16 <= n; i += 16) most = V(max)(most, V(load)(logits + i));
        top = V(hmax)(most);
    }
    for (; i < n; i++) top = logits[i] > top ? logits[i] : top;
    return top;
}

/* octave[n] = y rounded half to even, mass[n] = 2^(y - octave + 23), both as floats. n is a
 * multiple of 16. The polynomial is a least squares fit of 2^f on [-0.5, 0.5] with relative error
 * 1e-7. It uses mul and add, since fma is slow on baseline. */
DL_INLINE void DL_FN(dl_weights)(const float *logits, int64_t n, float scale, float *octave,
                                 float *mass)
{
    const VT most = V(set1)(DL_MAX_Y), least = V(set1)(-DL_MAX_Y), round = V(set1)(DL_ROUND);
    for (int64_t i = 0; i < n; i += 16) {
        VT y = V(mul)(V(load)(logits + i), V(set1)(scale));
        y = V(max)(V(min)(y, most), least);
        VT whole = V(sub)(V(add)(y, round), round);
        VT f = V(sub)(y, whole);
        VT p = V(set1)(0.00132186725f);
        p = V(add)(V(mul)(p, f), V(set1)(0.00967169794f));
        p = V(add)(V(mul)(p, f), V(set1)(0.0555089295f));
        p = V(add)(V(mul)(p, f), V(set1)(0.24022238f));
        p = V(add)(V(mul)(p, f), V(set1)(0.693146856f));
        p = V(add)(V(mul)(p, f), V(set1)(1.0f));
        V(store)(octave + i, whole);
        V(store)(mass + i, V(mul)(p, V(set1)(8388608.0f)));
    }
}

/* Octaves and masses of up to DL_RUN logits as integers; masses are rounded down. */
static void DL_FN(dl_masses)(const float *logits, int64_t n, float scale, int32_t *octave,
                             int32_t *mass)
{
    float padded[DL_RUN], octaves[DL_RUN], masses[DL_RUN];
    int64_t whole = n - n % 16;
    memcpy(padded, logits + whole, (size_t)(n - whole) * sizeof(float));
    for (int64_t i = n - whole; i < 16; i++) padded[i] = 0.0f;
    DL_FN(dl_weights)(logits, whole, scale, octaves, masses);
    if (whole < n) DL_FN(dl_weights)(padded, 16, scale, octaves + whole, masses + whole);
    for (int64_t i = 0; i < n; i++) octave[i] = (int32_t)octaves[i];
    for (int64_t i = 0; i < n; i++) mass[i] = (int32_t)masses[i];
}

/* sums[i] += masses of the tokens i octaves below `first`. No token is above `first`. */
static void DL_FN(dl_sum_masses)(const float *logits, int64_t n, float scale, int32_t first,
                                 uint64_t *sums)
{
    int32_t octave[DL_RUN], mass[DL_RUN];
    /* Neighbours often share an octave, and an addition to memory waits for the previous one, so
     * four sums take turns. The last entry is for weights that do not count. */
    uint64_t turn[4][DL_OCTAVES + 1] = {{0}};
    for (int64_t begin = 0; begin < n; begin += DL_RUN) {
        int64_t count = n - begin < DL_RUN ? n - begin : DL_RUN;
        DL_FN(dl_masses)(logits + begin, count, scale, octave, mass);
        for (int64_t i = 0; i < count; i++)
            octave[i] = first - octave[i] < DL_OCTAVES ? first - octave[i] : DL_OCTAVES;
        for (int64_t i = 0; i < count; i++) turn[i & 3][octave[i]] += (uint64_t)mass[i];
    }
    for (int i = 0; i < DL_OCTAVES; i++)
        sums[i] = turn[0][i] + turn[1][i] + turn[2][i] + turn[3][i];
}

/* index[] = positions of the logits that are at least `least` and in `octave` or above. Returns how
 * many there are. */
static int64_t DL_FN(dl_select)(const float *logits, int64_t n, float scale, float octave,
                                float least, int32_t *index)
{
    uint8_t taken[DL_RUN];
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        taken[i] = (dl_octave(logits[i], scale) >= octave) & (logits[i] >= least);
    for (int64_t i = 0; i < n; i++) {
        index[count] = (int32_t)i;
        count += taken[i];
    }
    return count;
}
