/* A team of threads, and how it shares out the items of a pass.
 *
 * A pass goes through stages. The items of a stage are independent, and a stage is done when its
 * items are, whether all threads have come or not. So a thread that has lost its core holds up one
 * item at most: the others take the rest, and the one that finishes the last item opens the next
 * stage. Who comes back late goes on with the stage that is open by then, maybe of a later pass.
 *
 * So a thread may still work on a stage that is over. It finds nothing to do there: it takes an item
 * by compare-and-swap from "n items taken in this pass", and what it knows of a stage (its number,
 * its items, the pass) came in one word. What belongs to the pass itself it reads only within an
 * item, and no pass ends before that item is reported.
 *
 * Order in memory: to report items is an addition to `done` with acquire and release, so the thread
 * that opens the next stage has seen the results of all. It stores `open` with release, and all
 * others load it with acquire before they work on a stage. Other atomics are relaxed.
 */
#ifndef DL_TEAM_H
#define DL_TEAM_H

#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include "threads.h"

enum {
    DL_SPINS = 1000,       /* of a waiting thread before it lets others run: about 20 microseconds */
    DL_PATIENCE = 1000000, /* nanoseconds that it waits before it sleeps */
    DL_LOOK = 100000000,   /* nanoseconds between two looks of the calling thread */
    DL_ITEMS_UNSEEN = 16,  /* items that it does without a look at the clock */
    DL_ITEM_BITS = 26,     /* of a number of items */
    DL_STAGE_BITS = 16,    /* of a stage */
};

/* Items taken of a thread's share: the pass (38 bits, enough for years), then their number. */
typedef struct {
    _Alignas(64) uint64_t taken;
    char padding[56];
} dl_share;

/* The thread that closes a stage has this line in its cache. */
typedef struct {
    _Alignas(64) int64_t done; /* items of the open stage that are reported; 0 in all others */
    int64_t nanoseconds;       /* of the stage in the last pass, 0 if it had no items */
    char padding[48];
} dl_stage;

/* How many items a stage has. Called once for a stage, when all stages before it are done. */
typedef int64_t (*dl_count_fn)(void *work, int64_t stage);
/* Does an item. Nonzero: it failed; no more items are begun, and the pass ends. */
typedef int (*dl_item_fn)(void *work, int64_t stage, int64_t item, int thread);
/* Called by the calling thread now and then in long passes. Nonzero: the pass is to end. */
typedef int (*dl_look_fn)(void *work);

struct dl_team;
typedef struct {
    struct dl_team *team;
    int number;            /* 1 to threads - 1; the thread that calls dl_team_run is number 0 */
    pthread_t handle;
} dl_member;

typedef struct dl_team {
    /* The open stage: the low bits of `pass`, then its number, then its items. A stage with the number
     * `stages` is open if no pass runs. */
    _Alignas(64) uint64_t open;
    int64_t opened;        /* when */
    int failed;            /* an item of this pass has failed, or the pass is to end */
    int64_t looked;        /* when the calling thread looked last whether to go on */
    _Alignas(64) int sleepers; /* threads that sleep until `open` changes, or are about to */
    _Alignas(64) uint64_t pass; /* the number of the last pass */
    int threads;
    int started;           /* members that run */
    int ends;
    pid_t process;         /* where the members run */
    int64_t stages, end;   /* in all; those of this pass end before `end` */
    dl_share *shares;      /* [stages][threads] */
    dl_stage *progress;    /* [stages] */
    dl_member *members;    /* [threads - 1] */
    dl_count_fn count;
    dl_item_fn item;
    dl_look_fn look;
    void *work;
    pthread_mutex_t mutex; /* of `changed` */
    pthread_cond_t changed;
} dl_team;

static inline uint64_t dl_pack(uint64_t pass, int64_t stage, int64_t items)
{
    return pass << (DL_STAGE_BITS + DL_ITEM_BITS) | (uint64_t)stage << DL_ITEM_BITS | (uint64_t)items;
}

static inline int64_t dl_stage_of(uint64_t open)
{
    return (int64_t)(open >> DL_ITEM_BITS & ((1 << DL_STAGE_BITS) - 1));
}

static inline int64_t dl_items_of(uint64_t word)
{
    return (int64_t)(word & ((1 << DL_ITEM_BITS) - 1));
}

/* The next item of a share of `count` items; -1 if all are taken, or the pass is over. */
static inline int64_t dl_take(dl_share *share, uint64_t pass, int64_t count)
{
    uint64_t seen = __atomic_load_n(&share->taken, __ATOMIC_RELAXED);
    for (;;) {
        uint64_t last = seen >> DL_ITEM_BITS; /* the pass that took an item last */
        int64_t n = last < pass ? 0 : dl_items_of(seen);
        if (last > pass || n >= count) return -1;
        if (__atomic_compare_exchange_n(&share->taken, &seen, pass << DL_ITEM_BITS | (uint64_t)(n + 1),
                                        0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return n;
    }
}

/* Set `open` and wake who sleeps. Both this and dl_sleep are sequentially consistent: either this
 * sees the sleeper, or the sleeper sees the change. */
static inline void dl_publish(dl_team *t, uint64_t open)
{
    __atomic_store_n(&t->open, open, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&t->sleepers, __ATOMIC_SEQ_CST)) return;
    pthread_mutex_lock(&t->mutex);
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->mutex);
}

static inline void dl_sleep(dl_team *t, uint64_t seen, int looks)
{
    struct timespec end;
    int error = 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += DL_LOOK;
    end.tv_sec += end.tv_nsec / 1000000000;
    end.tv_nsec %= 1000000000;
    pthread_mutex_lock(&t->mutex);
    __atomic_add_fetch(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&t->open, __ATOMIC_SEQ_CST) == seen && !error)
        error = looks ? pthread_cond_timedwait(&t->changed, &t->mutex, &end)
                      : pthread_cond_wait(&t->changed, &t->mutex);
    __atomic_sub_fetch(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&t->mutex);
}

/* Look whether the pass is to end, unless this was done just now. */
static inline void dl_look(dl_team *t)
{
    int64_t now = dl_now();
    if (!t->look || now - t->looked < DL_LOOK) return;
    t->looked = now;
    if (t->look(t->work)) __atomic_store_n(&t->failed, 1, __ATOMIC_RELAXED);
}

/* Wait until `open` is not what was seen, and return it. The calling thread looks meanwhile. */
static inline uint64_t dl_wait(dl_team *t, uint64_t seen, int looks)
{
    uint64_t open;
    int64_t end = 0;
    for (int spin = 0; (open = __atomic_load_n(&t->open, __ATOMIC_ACQUIRE)) == seen; spin++) {
        if (spin < DL_SPINS) {
            dl_pause();
        } else if (end && dl_now() > end) {
            dl_sleep(t, seen, looks);
            if (looks) dl_look(t);
        } else {
            if (!end) end = dl_now() + DL_PATIENCE;
            sched_yield();
        }
    }
    return open;
}

/* Open the first stage from `stage` on that has items, or end the pass. */
static inline void dl_open(dl_team *t, int64_t stage)
{
    int64_t items = 0;
    for (; stage < t->end && (items = t->count(t->work, stage)) == 0; stage++)
        t->progress[stage].nanoseconds = 0;
    dl_publish(t, dl_pack(t->pass, stage < t->end ? stage : t->stages, items));
}

/* Close a stage that is done, and open the next. */
static inline void dl_close(dl_team *t, int64_t stage)
{
    int64_t now = dl_now();
    t->progress[stage].nanoseconds = now - t->opened;
    t->progress[stage].done = 0;
    t->opened = now;
    if (!__atomic_load_n(&t->failed, __ATOMIC_RELAXED)) dl_open(t, stage + 1);
    else dl_publish(t, dl_pack(t->pass, t->stages, 0));
}

/* Do what is left of the open stage: first the thread's own share, then those of others. */
static inline void dl_do_stage(dl_team *t, int thread, uint64_t open)
{
    uint64_t pass = __atomic_load_n(&t->pass, __ATOMIC_RELAXED);
    int64_t stage = dl_stage_of(open), items = dl_items_of(open), threads = t->threads;
    int64_t finished = 0, i;
    if (dl_pack(pass, stage, items) != open) return; /* a later pass */
    for (int64_t n = thread; n < thread + threads; n++) {
        int64_t owner = n % threads;
        int64_t first = items * owner / threads, end = items * (owner + 1) / threads;
        while ((i = dl_take(&t->shares[stage * threads + owner], pass, end - first)) >= 0) {
            if (!__atomic_load_n(&t->failed, __ATOMIC_RELAXED)
                && t->item(t->work, stage, first + i, thread))
                __atomic_store_n(&t->failed, 1, __ATOMIC_RELAXED);
            finished++;
            if (thread == 0 && finished % DL_ITEMS_UNSEEN == 0) dl_look(t);
        }
    }
    if (finished
        && __atomic_add_fetch(&t->progress[stage].done, finished, __ATOMIC_ACQ_REL) == items)
        dl_close(t, stage);
}

/* Run a pass of stages `begin` to `end` - 1. Returns when the last of them is done, or one in which an
 * item has failed or the calling thread has seen that the pass is to end. */
static inline void dl_team_run(dl_team *t, int64_t begin, int64_t end)
{
    uint64_t open;
    if (t->process != getpid()) t->sleepers = 0; /* after a fork: this thread is alone */
    t->failed = 0;
    t->end = end;
    t->opened = t->looked = dl_now();
    __atomic_store_n(&t->pass, t->pass + 1, __ATOMIC_RELAXED);
    dl_open(t, begin);
    open = __atomic_load_n(&t->open, __ATOMIC_ACQUIRE);
    while (dl_stage_of(open) != t->stages) {
        dl_do_stage(t, 0, open);
        dl_look(t);
        open = dl_wait(t, open, 1);
    }
}

static void *dl_member_main(void *argument)
{
    dl_member *member = argument;
    dl_team *t = member->team;
    uint64_t open = __atomic_load_n(&t->open, __ATOMIC_ACQUIRE);
#ifdef __linux__
    prctl(PR_SET_NAME, "dllama");
#endif
    while (!__atomic_load_n(&t->ends, __ATOMIC_RELAXED)) { /* set before `open`, which is acquired */
        if (dl_stage_of(open) != t->stages) dl_do_stage(t, member->number, open);
        open = dl_wait(t, open, 0);
    }
    return NULL;
}

/* End the members. After a fork there are none. */
static inline void dl_team_stop(dl_team *t)
{
    if (t->process != getpid()) return;
    __atomic_store_n(&t->ends, 1, __ATOMIC_RELAXED);
    dl_publish(t, dl_pack(t->pass + 1, t->stages, 0));
    for (int n = 0; n < t->started; n++) pthread_join(t->members[n].handle, NULL);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mutex);
}

/* Start the members of a team that is zero but for threads, stages, arrays and functions. Returns 0,
 * or an error number, and then none runs. */
static inline int dl_team_start(dl_team *t)
{
    sigset_t all, before;
    int error = 0;
    t->process = getpid();
    t->open = dl_pack(0, t->stages, 0);
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->changed, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the caller */
    for (int n = 0; n < t->threads - 1 && !error; n++) {
        t->members[n].team = t;
        t->members[n].number = n + 1;
        error = pthread_create(&t->members[n].handle, NULL, dl_member_main, &t->members[n]);
        t->started += !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) dl_team_stop(t);
    return error;
}

#endif
