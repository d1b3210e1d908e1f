#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef DL_SUFFIX
#undef DL_VECTORS
