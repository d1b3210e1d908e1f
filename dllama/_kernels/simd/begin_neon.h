#define DL_SUFFIX neon
#define DL_VECTORS neon
#if defined(__clang__)
#pragma clang attribute push
#else
#pragma GCC push_options
#endif
#include "vec_neon.h"
