"""Exchanges: a node sends to and receives from all others at once, over any transport.

One loop serves all peers, so that no order of sends and receives can deadlock. An exchange may begin
long before its end is waited for: links carry its bytes while the threads compute.
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
    cdef int64_t count = begin_exchange(peers, out, out_bytes, into, into_bytes)
    return -1 if count < 0 else end_exchanges(peers, count)


cdef int64_t begin_exchange(Peers *peers, const uint8_t *const *out, const int64_t *out_bytes,
                            uint8_t *const *into, const int64_t *into_bytes) noexcept nogil:
    cdef Exchange *one = _numbered(peers, peers.n_begun)
    cdef int r
    if end_exchanges(peers, peers.n_begun + 1 - MOST_BEGUN):
        return -1
    for r in range(peers.world_size):
        one.out[r], one.out_bytes[r], one.sent[r] = out[r], out_bytes[r], 0
        one.into[r], one.into_bytes[r], one.got[r] = into[r], into_bytes[r], 0
        if r == peers.rank:
            one.out_bytes[r] = one.into_bytes[r] = 0
    peers.n_begun += 1
    return -1 if advance(peers) else peers.n_begun


cdef inline Exchange *_numbered(Peers *peers, int64_t number) noexcept nogil:
    return &peers.begun[number % MOST_BEGUN]


cdef inline int64_t _unsent(const Exchange *one, int r) noexcept nogil:
    return one.out_bytes[r] - one.sent[r]


cdef inline int64_t _awaited(const Exchange *one, int r) noexcept nogil:
    return one.into_bytes[r] - one.got[r]


cdef int advance(Peers *peers) noexcept nogil:
    return -1 if _advance(peers) < 0 else 0


cdef int64_t _advance(Peers *peers) noexcept nogil:
    """The same. Returns how many bytes were moved."""
    cdef int64_t number, moved, progress = 0
    cdef Exchange *one
    cdef int r
    for r in range(peers.world_size):
        for number in range(peers.n_ended, peers.n_begun):
            one = _numbered(peers, number)
            if _unsent(one, r):
                moved = dl_link_send(peers.links[r], one.out[r] + one.sent[r], _unsent(one, r))
                if moved < 0:
                    return _fail(peers, <int> moved, r, True)
                one.sent[r] += moved
                progress += moved
                if _unsent(one, r):
                    break
        for number in range(peers.n_ended, peers.n_begun):
            one = _numbered(peers, number)
            if _awaited(one, r):
                moved = dl_link_recv(peers.links[r], one.into[r] + one.got[r], _awaited(one, r))
                if moved < 0:
                    return _fail(peers, <int> moved, r, False)
                one.got[r] += moved
                progress += moved
                if _awaited(one, r):
                    break
    return progress


cdef inline bint _is_left(const Exchange *one, int world_size) noexcept nogil:
    """Whether an exchange has not ended."""
    cdef int r
    for r in range(world_size):
        if _unsent(one, r) or _awaited(one, r):
            return True
    return False


cdef int end_exchanges(Peers *peers, int64_t count) noexcept nogil:
    cdef int64_t progress, now = dl_now(), end = now + peers.patience, looked = now
    cdef int rounds = 0, interrupted = 0
    while True:
        while peers.n_ended < count and not _is_left(
                _numbered(peers, peers.n_ended), peers.world_size):
            peers.n_ended += 1
        if peers.n_ended >= count:
            return 0
        progress = _advance(peers)
        if progress < 0:
            return -1
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
            return _late(peers)
        if _await(peers, end - now, rounds % LOOK == 0):
            return -1


cdef int _fail(Peers *peers, int error, int rank, bint sending) noexcept nogil:
    peers.failure.error, peers.failure.rank, peers.failure.sending = error, rank, sending
    return -1


cdef int _late(Peers *peers) noexcept nogil:
    """Blame the first node that has not sent its bytes, or else that has not taken ours."""
    cdef const Exchange *one = _numbered(peers, peers.n_ended)
    cdef int r
    for r in range(peers.world_size):
        if _awaited(one, r):
            return _fail(peers, -ETIMEDOUT, r, False)
    for r in range(peers.world_size):
        if _unsent(one, r):
            return _fail(peers, -ETIMEDOUT, r, True)
    return 0


cdef inline int _asked(Peers *peers, int r) noexcept nogil:
    """What to wait for on a link: bytes of the oldest exchange, room for those of any."""
    cdef const Exchange *one = _numbered(peers, peers.n_ended)
    cdef int asked = DL_READ if _awaited(one, r) else 0
    cdef int64_t number
    for number in range(peers.n_ended, peers.n_begun):
        if _unsent(_numbered(peers, number), r):
            asked |= DL_WRITE
    return asked


cdef int _await(Peers *peers, int64_t limit, bint look) noexcept nogil:
    """Wait until some link of the exchange may be ready. -1 if a control link has ended."""
    cdef dl_link *links[2 * MOST_NODES]
    cdef int events[2 * MOST_NODES]
    cdef int r, n = 0, first, asked, hint = 0
    cdef int64_t waited = peers.patience - limit
    if waited > LATE:
        hint = DL_IDLE if waited > URGENT else DL_LATE
    for r in range(peers.world_size):
        asked = _asked(peers, r)
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
