/* Stands in for the header of this name where the processor may lack AVX-512: its instructions
 * become functions, all else is compiled as it is. */
#define DL_SUFFIX avx512
#define DL_VECTORS avx512
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "emulated.h"
#include "emulated_avx512.h"
#include "vec_avx512.h"
