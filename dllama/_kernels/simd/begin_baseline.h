#define DL_SUFFIX baseline
#include "vec_baseline.h"
