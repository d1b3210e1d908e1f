/* The kernels of linear attention: a table of functions for each instruction set. */
#ifndef DL_DELTA_H
#define DL_DELTA_H

#include "floats.h"

#define DL_BODY "delta.inc.h"
#include "each_vec.h"

typedef struct {
    void (*conv)(const float *const *x, const float *w, int64_t stride, int taps, const float *bias, int64_t n,
                 float *y);
    void (*delta)(float *state, const float *q, const float *k, const float *v, int64_t K, int64_t width,
                  float decay, float beta, float *o);
    void (*scan)(float *state, const float *q, const float *k, const float *v, int64_t K, int64_t width,
                 float decay, float *o);
    void (*gate)(const float *x, const float *gate, int64_t n, float *y);
    float (*squares)(const float *x, int64_t n);
} dl_deltas;

#define DL_DELTAS(isa, vec) {dl_conv_##vec, dl_delta_##vec, dl_scan_##vec, dl_gate_##vec, dl_squares_##vec},

/* isa must be available on this machine. */
static inline const dl_deltas *dl_deltas_of(int isa)
{
    static const dl_deltas table[DL_ISA_COUNT] = {DL_ISAS(DL_DELTAS)};
    return &table[isa];
}

/* ln(1 + x) for x in 0 to 1, relative error below 1e-12: 2 artanh(x / (2 + x)) as its series. */
static inline double dl_log1p(double x)
{
    double s = x / (2.0 + x), square = s * s, sum = 0.0;
    for (int n = 25; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return 2.0 * s * sum;
}

#endif
