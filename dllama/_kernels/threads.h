/* Threads of a parallel region: the number of this thread, the size of the team, barriers.
 *
 * The only file that calls OpenMP. Without it every region has one thread.
 */
#ifndef DL_THREADS_H
#define DL_THREADS_H

#include <sched.h>
#include <stdint.h>
#include <time.h>

#ifdef _OPENMP
#include <omp.h>
static inline int dl_openmp(void) { return 1; }
static inline int dl_thread_id(void) { return omp_get_thread_num(); }
static inline int dl_team_size(void) { return omp_get_num_threads(); }
#else
static inline int dl_openmp(void) { return 0; }
static inline int dl_thread_id(void) { return 0; }
static inline int dl_team_size(void) { return 1; }
#endif

static inline void dl_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* arrived and round have a cache line each. */
typedef struct {
    _Alignas(64) int arrived;
    _Alignas(64) int round;
    char padding[60];
} dl_barrier;

/* Spins before a waiting thread lets others run: about 20 microseconds. */
enum { DL_SPINS = 1000 };

/* Returns when all `team` threads have called it. What they wrote before is visible then. */
static inline void dl_barrier_wait(dl_barrier *b, int team)
{
    int round = __atomic_load_n(&b->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == team) {
        __atomic_store_n(&b->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spin = 0; __atomic_load_n(&b->round, __ATOMIC_ACQUIRE) == round; spin++)
        if (spin < DL_SPINS) dl_pause(); else sched_yield();
}

/* A shared counter of the items taken, alone on its cache line. */
typedef struct {
    _Alignas(64) int64_t next;
    char padding[56];
} dl_counter;

/* The next item, or `end` or more if no item is left; then it rarely writes. */
static inline int64_t dl_counter_next(dl_counter *c, int64_t end)
{
    if (__atomic_load_n(&c->next, __ATOMIC_RELAXED) >= end) return end;
    return __atomic_fetch_add(&c->next, 1, __ATOMIC_RELAXED);
}

/* Monotonic time in nanoseconds. */
static inline int64_t dl_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
