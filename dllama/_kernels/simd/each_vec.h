/* Compiles the header that DL_BODY names once for each vector type. */
#include "begin_baseline.h"
#include DL_BODY
#include "end_baseline.h"

#if DL_X86
#include "begin_avx2.h"
#include DL_BODY
#include "end.h"

#include "begin_avx512.h"
#include DL_BODY
#include "end.h"
#elif DL_ARM64
#include "begin_neon.h"
#include DL_BODY
#include "end.h"
#endif

#undef DL_BODY
