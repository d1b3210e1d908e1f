#define DL_SUFFIX baseline
#define DL_VECTORS baseline
#include "vec_baseline.h"
