#undef DL_SUFFIX
