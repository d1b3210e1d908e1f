/* What waiting threads need, and whether there is OpenMP. */
#ifndef DL_THREADS_H
#define DL_THREADS_H

#include <sched.h>
#include <stdint.h>
#include <time.h>

enum { DL_LONG_YIELD = 50000 }; /* nanoseconds */

static inline int dl_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

static inline void dl_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Monotonic time in nanoseconds. */
static inline int64_t dl_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Let others run. Returns whether they did for longer than it takes to wake up: then who waits had
 * better sleep, since processors are scarce. */
static inline int dl_yield(void)
{
    int64_t begin = dl_now();
    sched_yield();
    return dl_now() - begin > DL_LONG_YIELD;
}

#endif
