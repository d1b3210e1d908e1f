/* Replaces the header of this name on processors without AVX-512: its instructions become
 * functions, everything else is compiled unchanged. */
#define DL_SUFFIX avx512
#define DL_VECTORS avx512
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "emulated.h"
#include "emulated_avx512.h"
#include "vec_avx512.h"
