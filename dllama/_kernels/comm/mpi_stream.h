/* Streams of bytes over MPI messages: the hot half of the transport mpi.
 *
 * No mpi.h is needed. The functions of the MPI library that mpi4py has loaded are called through
 * pointers, and handles are passed as dl_mpi_handle: they are pointers in Open MPI and ints in
 * MPICH. Under the calling conventions of x86-64 (System V) and aarch64 (AAPCS64) both take one
 * register, and a callee that expects an int ignores its upper half. No function here has more than
 * 7 arguments, and the 7th is always a pointer.
 *
 * Every call of MPI goes through one lock, so MPI_THREAD_SERIALIZED is enough. No call waits: what
 * takes time is a request that is tested. MPI only ever reads from and writes to memory of the
 * stream, which outlives the link, so a caller that gives up may free its own.
 *
 * A rank numbers the streams that it opens. The tags of stream i are 2i towards the rank that it was
 * opened to, and 2i + 1 back. A message holds 1 to DL_MPI_CHUNK bytes; one without any is the end of
 * the stream.
 */
#ifndef DL_MPI_STREAM_H
#define DL_MPI_STREAM_H

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "link.h"
#include "threads.h"

enum {
    DL_MPI_CHUNK = 1 << 17, /* bytes of the longest message */
    DL_MPI_SLOTS = 8,       /* most messages on their way */
    DL_MPI_POSTED = 4,      /* receives that are posted before their messages come */
    DL_MPI_CONNECT = 0,     /* tags of messages that belong to no stream */
    DL_MPI_FAREWELL = 1,
    DL_MPI_FIRST = 1, /* number of the first stream */
};
/* Nanoseconds between looks of a wait that sleeps: MPI has nothing that wakes it up. */
enum { DL_MPI_NAP = 20000, DL_MPI_LONG_NAP = 1000000 };

typedef uintptr_t dl_mpi_handle;
typedef int64_t dl_mpi_status[8]; /* larger than any MPI_Status */

/* The MPI library: functions of MPI-3.0 by their names in it, and handles. */
typedef struct {
    int (*isend)(const void *, int, dl_mpi_handle, int, int, dl_mpi_handle, dl_mpi_handle *);
    int (*issend)(const void *, int, dl_mpi_handle, int, int, dl_mpi_handle, dl_mpi_handle *);
    int (*irecv)(void *, int, dl_mpi_handle, int, int, dl_mpi_handle, dl_mpi_handle *);
    int (*test)(dl_mpi_handle *, int *, void *);
    int (*get_count)(const void *, dl_mpi_handle, int *);
    int (*cancel)(dl_mpi_handle *);
    int (*iallreduce)(const void *, void *, int, dl_mpi_handle, dl_mpi_handle, dl_mpi_handle,
                      dl_mpi_handle *);
    dl_mpi_handle comm; /* all ranks, for the messages of streams */
    dl_mpi_handle byte, real, sum; /* MPI_BYTE, MPI_FLOAT, MPI_SUM */
    dl_mpi_handle in_place;        /* MPI_IN_PLACE, an address */
    int any_source;     /* MPI_ANY_SOURCE */
} dl_mpi;

typedef struct {
    const dl_mpi *mpi;
    int peer, out_tag, in_tag;
    int oldest, sending;       /* sends on their way: the first slot, and how many */
    int head;                  /* the receive whose bytes are next */
    int64_t have, at;          /* its bytes, -1 until they come; how many of them were taken */
    int shut;                  /* ended on this side */
    int broken;                /* MPI reported an error */
    dl_mpi_handle sends[DL_MPI_SLOTS + 1]; /* the last one is that of the end */
    dl_mpi_handle recvs[DL_MPI_POSTED];
    uint8_t *out;              /* [DL_MPI_SLOTS][DL_MPI_CHUNK] */
    uint8_t *in;               /* [DL_MPI_POSTED][DL_MPI_CHUNK] */
} dl_mpi_stream;

static pthread_mutex_t dl_mpi_lock = PTHREAD_MUTEX_INITIALIZER;

/* The functions up to dl_mpi_link_send are called with the lock. */

static inline int dl_mpi_done(const dl_mpi *mpi, dl_mpi_handle *request, int *count)
{
    int flag = 0;
    dl_mpi_status status = {0};
    if (mpi->test(request, &flag, status)) return -EIO;
    if (flag && count && mpi->get_count(status, mpi->byte, count)) return -EIO;
    return flag;
}

static inline int dl_mpi_post(dl_mpi_stream *s, int i)
{
    return s->mpi->irecv(s->in + (int64_t)i * DL_MPI_CHUNK, DL_MPI_CHUNK, s->mpi->byte, s->peer,
                         s->in_tag, s->mpi->comm, &s->recvs[i]) ? (s->broken = -EIO) : 0;
}

/* Whether the next bytes or the end have come, or an error. */
static inline int dl_mpi_came(dl_mpi_stream *s)
{
    int count = 0, done;
    if (s->have >= 0 || s->broken) return 1;
    done = dl_mpi_done(s->mpi, &s->recvs[s->head], &count);
    if (done < 0) s->broken = done;
    if (done > 0) s->have = count, s->at = 0;
    return done != 0;
}

/* Forget the first message, and let another one come in its place. */
static inline void dl_mpi_next(dl_mpi_stream *s)
{
    s->have = -1;
    dl_mpi_post(s, s->head);
    s->head = (s->head + 1) % DL_MPI_POSTED;
}

/* Free the slots whose messages have left. Returns how many there are. */
static inline int dl_mpi_free_slots(dl_mpi_stream *s)
{
    while (s->sending && !s->broken) {
        int done = dl_mpi_done(s->mpi, &s->sends[s->oldest], NULL);
        if (done < 0) s->broken = done;
        if (done <= 0) break;
        s->oldest = (s->oldest + 1) % DL_MPI_SLOTS;
        s->sending--;
    }
    return DL_MPI_SLOTS - s->sending;
}

/* Send up to DL_MPI_CHUNK bytes; a slot must be free. Every fourth message is a synchronous one,
 * which only leaves its slot when it was received. So a peer that does not read is noticed, and
 * MPI need not store more than the slots hold. */
static inline void dl_mpi_put(dl_mpi_stream *s, const void *data, int64_t n, int tag)
{
    int slot = (s->oldest + s->sending++) % DL_MPI_SLOTS;
    uint8_t *at = memcpy(s->out + (int64_t)slot * DL_MPI_CHUNK, data, (size_t)n);
    if ((slot % 4 ? s->mpi->isend : s->mpi->issend)(
            at, (int)n, s->mpi->byte, s->peer, tag, s->mpi->comm, &s->sends[slot]))
        s->broken = -EIO;
}

static inline int64_t dl_mpi_link_send(dl_link *link, const void *data, int64_t n)
{
    dl_mpi_stream *s = link->own;
    int64_t moved = 0, part, error;
    pthread_mutex_lock(&dl_mpi_lock);
    for (int free = dl_mpi_free_slots(s); free && moved < n && !s->shut && !s->broken; free--) {
        part = n - moved < DL_MPI_CHUNK ? n - moved : DL_MPI_CHUNK;
        dl_mpi_put(s, (const uint8_t *)data + moved, part, s->out_tag);
        moved += part;
    }
    if (s->broken) error = s->broken;
    else error = s->shut || (!moved && dl_mpi_came(s) && s->have == 0) ? -EPIPE : 0;
    pthread_mutex_unlock(&dl_mpi_lock);
    return error ? error : moved;
}

static inline int64_t dl_mpi_link_recv(dl_link *link, void *data, int64_t n)
{
    dl_mpi_stream *s = link->own;
    int64_t moved = 0, part, error = 0;
    pthread_mutex_lock(&dl_mpi_lock);
    while (moved < n && !s->shut && dl_mpi_came(s) && !s->broken && s->have) {
        part = n - moved < s->have - s->at ? n - moved : s->have - s->at;
        memcpy((uint8_t *)data + moved, s->in + (int64_t)s->head * DL_MPI_CHUNK + s->at, (size_t)part);
        moved += part;
        s->at += part;
        if (s->at == s->have) dl_mpi_next(s);
    }
    if (!moved && n) error = s->broken ? s->broken : s->shut || s->have == 0 ? -ECONNRESET : 0;
    pthread_mutex_unlock(&dl_mpi_lock);
    return error ? error : moved;
}

static inline int dl_mpi_look(dl_link *link, int asked)
{
    dl_mpi_stream *s = link->own;
    int ended, found = 0;
    pthread_mutex_lock(&dl_mpi_lock);
    if (s->shut || s->broken || ((asked & DL_READ) && dl_mpi_came(s))) found |= DL_READ;
    ended = s->shut || s->broken || s->have == 0;
    if (ended || ((asked & DL_WRITE) && dl_mpi_free_slots(s))) found |= DL_WRITE;
    if (ended && found & DL_READ) found |= DL_CLOSED;
    pthread_mutex_unlock(&dl_mpi_lock);
    return found & asked;
}

static inline void dl_mpi_nap(int64_t nanoseconds)
{
    struct timespec t = {0, (long)(nanoseconds > 0 ? nanoseconds : 1)};
    nanosleep(&t, NULL);
}

/* Look at all links until one is ready, with ever longer naps. */
static inline void dl_mpi_sleep(dl_link *const *links, int *events, int n, int64_t nanoseconds)
{
    int64_t end = dl_now() + nanoseconds, left, nap = DL_MPI_NAP;
    for (;;) {
        int any = 0;
        for (int i = 0; i < n; i++) any |= dl_mpi_look(links[i], events[i]);
        left = end - dl_now();
        if (any || left <= 0) break;
        dl_mpi_nap(nap < left ? nap : left);
        if (nap < DL_MPI_LONG_NAP) nap *= 2;
    }
    for (int i = 0; i < n; i++) events[i] = dl_mpi_look(links[i], events[i]);
}

/* As dl_socket_spin: return soon unless nothing is urgent, and report everything as ready. */
static inline void dl_mpi_wait(dl_link *const *links, int *events, int n, int64_t nanoseconds)
{
    if (n > 0 && events[0] & DL_IDLE) {
        dl_mpi_sleep(links, events, n, nanoseconds);
        return;
    }
    if (n > 0 && (links[0]->crowded || events[0] & DL_LATE)) sched_yield();
    else dl_pause();
    for (int i = 0; i < n; i++) events[i] &= DL_READ | DL_WRITE;
}

static inline void dl_mpi_shutdown(dl_link *link)
{
    dl_mpi_stream *s = link->own;
    pthread_mutex_lock(&dl_mpi_lock);
    if (!s->shut && s->mpi->isend(NULL, 0, s->mpi->byte, s->peer, s->out_tag, s->mpi->comm,
                                  &s->sends[DL_MPI_SLOTS]))
        s->broken = -EIO;
    s->shut = 1;
    pthread_mutex_unlock(&dl_mpi_lock);
}

/* The all-reduce of MPI over all ranks. Its numbers are kept here meanwhile, so that a caller that
 * gives up may free its own. One that was given up leaves the ranks out of step, so it is the last. */
static struct {
    float *numbers;
    int64_t room;
    int begun, broken;
    dl_mpi_handle request;
} dl_mpi_sum;

static inline int dl_mpi_begin_sum(const dl_mpi *mpi, const float *src, int64_t n)
{
    if (dl_mpi_sum.broken || n > INT32_MAX) return -EIO;
    if (n > dl_mpi_sum.room) {
        free(dl_mpi_sum.numbers);
        dl_mpi_sum.numbers = malloc((size_t)n * sizeof(float));
        dl_mpi_sum.room = dl_mpi_sum.numbers ? n : 0;
        if (!dl_mpi_sum.numbers) return -ENOMEM;
    }
    if (src) memcpy(dl_mpi_sum.numbers, src, (size_t)n * sizeof(float));
    else memset(dl_mpi_sum.numbers, 0, (size_t)n * sizeof(float));
    if (mpi->iallreduce((const void *)mpi->in_place, dl_mpi_sum.numbers, (int)n, mpi->real, mpi->sum,
                        mpi->comm, &dl_mpi_sum.request))
        return -EIO;
    dl_mpi_sum.begun = 1;
    return 0;
}

static inline int dl_mpi_link_sum(dl_link *link, const float *src, float *dst, int64_t n)
{
    const dl_mpi *mpi = ((dl_mpi_stream *)link->own)->mpi;
    int done = 0;
    pthread_mutex_lock(&dl_mpi_lock);
    if (n < 0) dl_mpi_sum.broken = 1;
    else if (!dl_mpi_sum.begun) done = dl_mpi_begin_sum(mpi, src, n);
    if (n >= 0 && done == 0) done = dl_mpi_done(mpi, &dl_mpi_sum.request, NULL);
    if (done > 0) {
        memcpy(dst, dl_mpi_sum.numbers, (size_t)n * sizeof(float));
        dl_mpi_sum.begun = 0;
        link->sent += n * (int64_t)sizeof(float);
        link->received += n * (int64_t)sizeof(float);
    }
    pthread_mutex_unlock(&dl_mpi_lock);
    return done;
}

/* Stream `number` with a peer, which one of both opened. Returns NULL if there is no memory. */
static inline dl_mpi_stream *dl_mpi_open(const dl_mpi *mpi, int peer, int number, int opened)
{
    dl_mpi_stream *s = calloc(1, sizeof *s);
    uint8_t *memory = malloc((size_t)(DL_MPI_SLOTS + DL_MPI_POSTED) * DL_MPI_CHUNK);
    if (!s || !memory) {
        free(s);
        free(memory);
        return NULL;
    }
    s->mpi = mpi, s->peer = peer, s->have = -1;
    s->in_tag = 2 * number + opened, s->out_tag = 2 * number + !opened;
    s->out = memory, s->in = memory + (size_t)DL_MPI_SLOTS * DL_MPI_CHUNK;
    pthread_mutex_lock(&dl_mpi_lock);
    for (int i = 0; i < DL_MPI_POSTED; i++) dl_mpi_post(s, i);
    pthread_mutex_unlock(&dl_mpi_lock);
    return s;
}

/* What a rank sends to the listener of another one: that it has opened a stream. */
typedef struct { int32_t rank, number; } dl_mpi_call;

static inline void dl_mpi_ring(dl_mpi_stream *s, int own)
{
    dl_mpi_call call = {own, (s->in_tag - 1) / 2};
    pthread_mutex_lock(&dl_mpi_lock);
    dl_mpi_put(s, &call, sizeof call, DL_MPI_CONNECT);
    pthread_mutex_unlock(&dl_mpi_lock);
}

/* Whether a listener has received the call, or an error. */
static inline int dl_mpi_answered(dl_mpi_stream *s)
{
    pthread_mutex_lock(&dl_mpi_lock);
    int answered = dl_mpi_free_slots(s) == DL_MPI_SLOTS || s->broken;
    pthread_mutex_unlock(&dl_mpi_lock);
    return answered;
}

/* Go on with a stream that was shut down: throw away what comes until the peer's end. Returns 1
 * when MPI has nothing to do for it any more; it was freed then. */
static inline int dl_mpi_settle(dl_mpi_stream *s)
{
    int left, ended;
    pthread_mutex_lock(&dl_mpi_lock);
    while (!s->broken && s->have && dl_mpi_came(s) && s->have) dl_mpi_next(s);
    ended = s->broken || s->have == 0;
    left = DL_MPI_SLOTS - dl_mpi_free_slots(s);
    left += dl_mpi_done(s->mpi, &s->sends[DL_MPI_SLOTS], NULL) == 0;
    for (int i = 0; ended && i < DL_MPI_POSTED; i++) {
        if (s->have == 0 && i == s->head) continue;
        if (dl_mpi_done(s->mpi, &s->recvs[i], NULL) == 0) {
            s->mpi->cancel(&s->recvs[i]);
            left++;
        }
    }
    pthread_mutex_unlock(&dl_mpi_lock);
    if (!ended || left) return 0;
    free(s->out);
    free(s);
    return 1;
}

/* Requests that belong to no stream: an incoming call, and empty messages as signals. */
static inline int dl_mpi_expect(const dl_mpi *mpi, void *into, int n, int peer, int tag,
                                dl_mpi_handle *request)
{
    pthread_mutex_lock(&dl_mpi_lock);
    int error = mpi->irecv(into, n, mpi->byte, peer, tag, mpi->comm, request);
    pthread_mutex_unlock(&dl_mpi_lock);
    return error;
}

static inline int dl_mpi_signal(const dl_mpi *mpi, int peer, int tag, dl_mpi_handle *request)
{
    pthread_mutex_lock(&dl_mpi_lock);
    int error = mpi->isend(NULL, 0, mpi->byte, peer, tag, mpi->comm, request);
    pthread_mutex_unlock(&dl_mpi_lock);
    return error;
}

static inline int dl_mpi_finished(const dl_mpi *mpi, dl_mpi_handle *request)
{
    pthread_mutex_lock(&dl_mpi_lock);
    int done = dl_mpi_done(mpi, request, NULL);
    pthread_mutex_unlock(&dl_mpi_lock);
    return done;
}

static inline int dl_mpi_give_up(const dl_mpi *mpi, dl_mpi_handle *request)
{
    pthread_mutex_lock(&dl_mpi_lock);
    int error = mpi->cancel(request);
    pthread_mutex_unlock(&dl_mpi_lock);
    return error;
}

#endif
