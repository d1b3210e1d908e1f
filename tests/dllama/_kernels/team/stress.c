/* Runs passes of random stages on a team whose threads are late at random, and checks that every item
 * is done once, after all of the stage before and before the pass returns.
 *
 *     stress THREADS PASSES
 *
 * What items write and read is not atomic, so -fsanitize=thread sees it if the order is not kept. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Threads lose their core anywhere: before any look at what they share. */
static __thread unsigned draws;
static void lose_core(void)
{
    if (!draws) draws = (unsigned)(uintptr_t)&draws;
    draws = draws * 1664525 + 1013904223;
    if (draws >> 22 == 0) usleep(draws >> 14 & 255);
}
#define __atomic_load_n(at, order) (lose_core(), __atomic_load_n(at, order))
#define __atomic_compare_exchange_n(...) (lose_core(), __atomic_compare_exchange_n(__VA_ARGS__))
#include "team.h"

enum { STAGES = 6, MOST = 40, MOST_THREADS = 64 };

typedef struct {
    int64_t pass;
    int64_t counts[STAGES];
    int64_t did[STAGES][MOST]; /* the pass that did the item last */
    int64_t fails;             /* the stage that fails; STAGES: none */
} work_t;

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void wrong(const work_t *w, const char *what, int64_t stage, int64_t item)
{
    printf("pass %ld, stage %ld, item %ld: %s\n", (long)w->pass, (long)stage, (long)item, what);
    fflush(stdout);
    _Exit(1);
}

static int64_t count(void *work, int64_t stage)
{
    return ((work_t *)work)->counts[stage];
}

static int item(void *work, int64_t stage, int64_t i, int thread)
{
    work_t *w = work;
    uint64_t draw = mix((uint64_t)(w->pass * 1000 + stage * 100 + i * 10 + thread));
    if (i >= w->counts[stage] || w->did[stage][i] == w->pass) wrong(w, "not to be done", stage, i);
    if (stage > 0)
        for (int64_t n = 0; n < w->counts[stage - 1]; n++)
            if (w->did[stage - 1][n] != w->pass) wrong(w, "too early", stage, i);
    if (draw % 16 == 0) sched_yield();
    if (draw % 4096 == 2) usleep(2500); /* the others lose their patience, and sleep */
    w->did[stage][i] = w->pass;
    return stage == w->fails && i == 0;
}

int main(int argc, char **argv)
{
    static work_t work;
    static dl_team team;
    static dl_share shares[STAGES * MOST_THREADS];
    static dl_stage progress[STAGES];
    static dl_member members[MOST_THREADS];
    work_t *w = &work;
    dl_team *t = &team;
    long passes = argc > 2 ? atol(argv[2]) : 0;
    *t = (dl_team){.threads = atoi(argv[1]), .stages = STAGES, .shares = shares, .progress = progress,
                   .members = members, .count = count, .item = item, .work = w};
    if (dl_team_start(t)) return 2;
    for (w->pass = 1; w->pass <= passes; w->pass++) {
        uint64_t draw = mix((uint64_t)w->pass);
        for (int s = 0; s < STAGES; s++, draw = mix(draw)) {
            int64_t small = (int64_t)(draw % 4), many = (int64_t)(draw >> 8 & 0xffff) % MOST;
            w->counts[s] = draw & 16 ? small : many;
        }
        w->fails = draw % 8 == 0 ? (int64_t)(draw >> 8 & 0xffff) % STAGES : STAGES;
        dl_team_run(t, 0, t->stages);
        for (int s = 0; s < STAGES; s++)
            for (int64_t i = s == w->fails ? w->counts[s] : 0; i < w->counts[s]; i++)
                if ((w->did[s][i] == w->pass) != (s < w->fails || !w->counts[w->fails]))
                    wrong(w, "done though a stage before failed, or left out", s, i);
    }
    dl_team_stop(t);
    printf("%ld passes\n", passes);
    return 0;
}
