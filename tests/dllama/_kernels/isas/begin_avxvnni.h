/* Replaces the header of this name on processors without AVX-VNNI: its instruction becomes a
 * function, everything else is compiled unchanged. */
#define DL_SUFFIX avxvnni
#define DL_VECTORS avx2
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "vec_avx2.h"
#include "emulated.h"
#define _mm256_dpbusd_avx_epi32 dl_emulated_dpbusd256
