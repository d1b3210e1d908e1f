#undef DL_SUFFIX
#undef DL_VECTORS
