#define DL_SUFFIX i8mm
#define DL_VECTORS neon
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
/* i8mm needs Armv8.2 as a base; where the compiler targets that already, only i8mm is added. */
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#pragma GCC target("+dotprod+i8mm")
#else
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif
#endif
#include "vec_neon.h"
