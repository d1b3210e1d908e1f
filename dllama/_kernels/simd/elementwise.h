/* The float kernels of an instruction set. */
#ifndef DL_ELEMENTWISE_H
#define DL_ELEMENTWISE_H

#include <stdint.h>

typedef struct {
    void (*rmsnorm)(const float *x, const float *weight, float epsilon, int64_t n, float *y);
    void (*layernorm)(const float *x, const float *weight, const float *bias, float epsilon, int64_t n, float *y);
    void (*silu)(const float *x, int64_t n, float *h);
    void (*gelu)(const float *x, int64_t n, float *h);
    void (*swiglu)(const float *gate, const float *up, int64_t n, float *h);
    void (*geglu)(const float *gate, const float *up, int64_t n, float *h);
    void (*swiglu_clamped)(const float *gate, const float *up, int64_t n, float limit, float *h);
    void (*softcap)(const float *x, int64_t n, float cap, float *y);
    void (*quantise_row)(const float *x, int64_t nb, int n, int8_t *q, float *d, int32_t *s, int32_t *h);
    void (*exp_row)(const float *x, int64_t n, float *y);
} dl_floats;

#endif
