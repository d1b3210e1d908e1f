/* Zeroed memory for weights, caches and buffers: whole pages, huge ones if they fit. */
#ifndef DL_MEMORY_H
#define DL_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { DL_HUGE_PAGE = 2 << 20 };

/* `bytes` zeroed bytes, or NULL. A mapping of 2 MiB or more begins at a huge page. */
static inline void *dl_map(size_t bytes)
{
    size_t slack = bytes >= DL_HUGE_PAGE ? DL_HUGE_PAGE : 0;
    if (bytes > SIZE_MAX - slack) return NULL;
    char *base = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    if (!slack) return base;
    size_t before = (size_t)(-(uintptr_t)base & (DL_HUGE_PAGE - 1));
    size_t after = slack - before;
    size_t tail = (bytes + 4095) / 4096 * 4096;
    if (before) munmap(base, before);
    if (after > tail - bytes) munmap(base + before + tail, after - (tail - bytes));
#ifdef MADV_HUGEPAGE
    madvise(base + before, bytes, MADV_HUGEPAGE);
#endif
    return base + before;
}

static inline void dl_unmap(void *data, size_t bytes)
{
    munmap(data, bytes);
}

#endif
