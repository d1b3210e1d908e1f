/* Vectorised loops over the logits of a vocabulary shard, for every instruction set.
 *
 * A token's weight e^(logit / T) = 2^y is kept as an octave, y rounded, and an integer of 24 bits.
 * Sums of integers do not depend on their order, so they do not depend on how the vocabulary is
 * split.
 */
#ifndef DL_SAMPLING_H
#define DL_SAMPLING_H

#include "cpu.h"

/* Octaves that count, from that of the largest logit down. Weights below them are less than 2^-47
 * of the largest. */
enum { DL_OCTAVES = 48 };
/* Logits processed at a time. */
enum { DL_RUN = 512 };

/* y is limited to this magnitude: a larger float has too few bits for a fraction. */
#define DL_MAX_Y 2097152.0f
/* 1.5 * 2^23: adding it rounds to an integer. */
#define DL_ROUND 12582912.0f

/* y = logit * scale, rounded; scale = log2(e) / T. */
DL_INLINE float dl_octave(float logit, float scale)
{
    float y = logit * scale;
    y = y < DL_MAX_Y ? y : DL_MAX_Y;
    y = y > -DL_MAX_Y ? y : -DL_MAX_Y;
    return (y + DL_ROUND) - DL_ROUND;
}

#define DL_BODY "sampling.inc.h"
#include "each_vec.h"

/* masses, select: at most DL_RUN logits. */
typedef struct {
    int (*usable)(const float *logits, int64_t n);
    float (*top)(const float *logits, int64_t n);
    void (*masses)(const float *logits, int64_t n, float scale, int32_t *octave, int32_t *mass);
    void (*sum_masses)(const float *logits, int64_t n, float scale, int32_t first, uint64_t *sums);
    int64_t (*select)(const float *logits, int64_t n, float scale, float octave, float least,
                      int32_t *index);
} dl_sampling;

#define DL_SAMPLING(isa, vec) \
    {dl_usable_##vec, dl_top_##vec, dl_masses_##vec, dl_sum_masses_##vec, dl_select_##vec},

/* isa must be available on this machine. */
static inline const dl_sampling *dl_sampling_of(int isa)
{
    static const dl_sampling table[DL_ISA_COUNT] = {DL_ISAS(DL_SAMPLING)};
    return &table[isa];
}

#endif
