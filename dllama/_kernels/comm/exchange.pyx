"""Exchanges: a node sends to and receives from all others at once, over any transport.

One loop serves all peers, so that no order of sends and receives can deadlock.
"""

from dllama._kernels.comm.link cimport (
    DL_CLOSED, DL_IDLE, DL_LATE, DL_READ, DL_WRITE, dl_link_recv, dl_link_send,
)


cdef extern from "errno.h" nogil:
    int ECANCELED
    int EINTR
    int ETIMEDOUT

cdef extern from "threads.h" nogil:
    int64_t dl_now()

# After this many rounds control links are checked, since some transports ignore them while they
# wait.
cdef enum:
    LOOK = 256

# Nanoseconds without progress after which waits may sleep: the peer is so late that the delay of
# waking up does not matter.
cdef int64_t URGENT = 2000000

# Nanoseconds after which a wait looks whether the pass was interrupted.
cdef int64_t INTERRUPTIBLE = 100000000

# Nanoseconds between looks at a sum of the transport, which no link tells the end of.
cdef int64_t NAP = 200000

# Nanoseconds without progress after which the peer may be waiting for this very processor.
cdef int64_t LATE = 30000


cdef int exchange(Peers *peers, const uint8_t *const *out, const int64_t *out_bytes,
              uint8_t *const *into, const int64_t *into_bytes) noexcept nogil:
    cdef int64_t sent[MOST_NODES]
    cdef int64_t got[MOST_NODES]
    cdef int64_t moved, progress, left, now = dl_now(), end = now + peers.patience
    cdef int64_t looked = now
    cdef int r, rounds = 0, interrupted = 0
    for r in range(peers.world_size):
        sent[r], got[r] = 0, 0
    while True:
        progress, left = 0, 0
        for r in range(peers.world_size):
            if r == peers.rank:
                continue
            if sent[r] < out_bytes[r]:
                moved = dl_link_send(peers.links[r], out[r] + sent[r], out_bytes[r] - sent[r])
                if moved < 0:
                    return _fail(peers, <int> moved, r, True)
                sent[r] += moved
                progress += moved
                left += out_bytes[r] - sent[r]
            if got[r] < into_bytes[r]:
                moved = dl_link_recv(peers.links[r], into[r] + got[r], into_bytes[r] - got[r])
                if moved < 0:
                    return _fail(peers, <int> moved, r, False)
                got[r] += moved
                progress += moved
                left += into_bytes[r] - got[r]
        if left == 0:
            return 0
        rounds += 1
        if progress:
            end = 0  # the time limit starts again at the next look at the clock
            continue
        now = dl_now()
        if end == 0:
            end = now + peers.patience
        if now - looked > INTERRUPTIBLE:
            looked = now
            interrupted = peers.look is not NULL and peers.look(peers.work)
        if interrupted or peers.interrupted:
            return _fail(peers, -EINTR, 0 if peers.rank else 1, False)
        if now >= end:
            return _late(peers, sent, out_bytes, got, into_bytes)
        if _await(peers, sent, out_bytes, got, into_bytes, end - now, rounds % LOOK == 0):
            return -1


cdef int _fail(Peers *peers, int error, int rank, bint sending) noexcept nogil:
    peers.failure.error, peers.failure.rank, peers.failure.sending = error, rank, sending
    return -1


cdef int _late(Peers *peers, const int64_t *sent, const int64_t *out_bytes, const int64_t *got,
               const int64_t *into_bytes) noexcept nogil:
    """Blame the first node that has not sent its bytes, or else that has not taken ours."""
    cdef int r
    for r in range(peers.world_size):
        if r != peers.rank and got[r] < into_bytes[r]:
            return _fail(peers, -ETIMEDOUT, r, False)
    for r in range(peers.world_size):
        if r != peers.rank and sent[r] < out_bytes[r]:
            return _fail(peers, -ETIMEDOUT, r, True)
    return 0


cdef int _await(Peers *peers, const int64_t *sent, const int64_t *out_bytes, const int64_t *got,
                const int64_t *into_bytes, int64_t limit, bint look) noexcept nogil:
    """Wait until some link of the exchange may be ready. -1 if a control link has ended."""
    cdef dl_link *links[2 * MOST_NODES]
    cdef int events[2 * MOST_NODES]
    cdef int r, n = 0, first, asked, hint = 0
    cdef int64_t waited = peers.patience - limit
    if waited > LATE:
        hint = DL_IDLE if waited > URGENT else DL_LATE
    for r in range(peers.world_size):
        if r == peers.rank:
            continue
        asked = DL_READ if got[r] < into_bytes[r] else 0
        asked |= DL_WRITE if sent[r] < out_bytes[r] else 0
        if asked:
            links[n], events[n] = peers.links[r], asked | hint
            n += 1
    first = n
    for r in range(peers.n_watched):
        links[n], events[n] = peers.watched[r], DL_READ | DL_CLOSED
        n += 1
    links[0].ops.wait(links, events, n, min(limit, INTERRUPTIBLE))
    if look:
        return _watched_end(peers)
    for r in range(peers.n_watched):
        if events[first + r] & DL_CLOSED:
            return _fail(peers, -ECANCELED, peers.watched_ranks[r], False)
    return 0


cdef int _watched_end(Peers *peers) noexcept nogil:
    """Look at the control links. -1 if one has ended."""
    cdef int events[MOST_NODES]
    cdef int r
    if peers.n_watched == 0:
        return 0
    for r in range(peers.n_watched):
        events[r] = DL_READ | DL_CLOSED | DL_IDLE
    peers.watched[0].ops.wait(peers.watched, events, peers.n_watched, 0)
    for r in range(peers.n_watched):
        if events[r] & DL_CLOSED:
            return _fail(peers, -ECANCELED, peers.watched_ranks[r], False)
    return 0


cdef int transport_sum(Peers *peers, const float *src, float *dst, int64_t n) noexcept nogil:
    cdef int other = 0 if peers.rank else 1, done, events, rounds = 0
    cdef dl_link *link = peers.links[other]
    cdef int64_t now, begin = dl_now(), looked = begin
    while True:
        done = link.ops.sum_some(link, src, dst, n)
        if done > 0:
            return 0
        rounds += 1
        now = dl_now()
        if done == 0 and now - begin >= peers.patience:
            done = -ETIMEDOUT
        if now - looked > INTERRUPTIBLE:
            looked = now
            if peers.interrupted or peers.look is not NULL and peers.look(peers.work):
                done = -EINTR
        if done < 0:
            _fail(peers, done, other if done == -EINTR else peers.rank, False)
        if done < 0 or rounds % LOOK == 0 and _watched_end(peers):
            link.ops.sum_some(link, NULL, NULL, -1)
            return -1
        events = DL_READ
        if now - begin > LATE:
            events |= DL_IDLE if now - begin > URGENT else DL_LATE
        link.ops.wait(&link, &events, 1, NAP)
