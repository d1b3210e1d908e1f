#define DL_SUFFIX dotprod
#define DL_VECTORS neon
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
/* dotprod needs Armv8.2 as a base; where the compiler targets that already, only dotprod is
 * added. */
#if defined(__ARM_FEATURE_DOTPROD) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#pragma GCC target("+dotprod")
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#endif
#include "vec_neon.h"
