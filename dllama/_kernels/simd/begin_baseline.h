#define DL_SUFFIX baseline
#define DL_VECTORS baseline
/* Loops stay loops: the baseline is for portability, not for speed. */
#undef DL_UNROLL
#define DL_UNROLL
#include "vec_baseline.h"
