# Exchanges: messages to and from all peers at once. All collectives are made of them.

from libc.stdint cimport int64_t, uint8_t

from dllama._kernels.comm.link cimport dl_link


# Most nodes of a cluster.
cdef enum:
    MOST_NODES = 256

# The first failure of an exchange.
cdef struct Failure:
    int error                       # a negative errno; 0: none so far
    int rank                        # the peer
    bint sending


# An exchange that has begun: by rank, what is sent and received.
cdef struct Exchange:
    const uint8_t *out[MOST_NODES]
    int64_t out_bytes[MOST_NODES]
    int64_t sent[MOST_NODES]
    uint8_t *into[MOST_NODES]
    int64_t into_bytes[MOST_NODES]
    int64_t got[MOST_NODES]

# Most exchanges that have begun and not ended.
cdef enum:
    MOST_BEGUN = 2

# The links of a node, and what its exchanges share.
cdef struct Peers:
    int world_size, rank
    dl_link *links[MOST_NODES]      # [world_size], NULL at rank
    dl_link *watched[MOST_NODES]    # control links: an exchange fails when one of them ends
    int watched_ranks[MOST_NODES]
    int n_watched
    int interrupted                 # set to end an exchange soon
    int (*look)(void *work) noexcept nogil  # called in long waits, nonzero: end; or NULL
    void *work                      # for look
    int64_t patience                # nanoseconds without a byte before an exchange fails
    Failure failure
    Exchange begun[MOST_BEGUN]      # exchange number n is begun[n % MOST_BEGUN]
    int64_t n_begun, n_ended        # exchanges end in the order in which they began


# Begin an exchange, as described below, and send what links take now. Memory must stay as it is until
# end_exchanges has been called. All nodes begin exchanges in the same order. Returns the number of
# exchanges begun so far, or -1 with peers.failure set.
cdef int64_t begin_exchange(Peers *peers, const uint8_t *const *out, const int64_t *out_bytes,
                            uint8_t *const *into, const int64_t *into_bytes) noexcept nogil

# Wait until so many exchanges have ended. Returns 0, or -1 with peers.failure set.
cdef int end_exchanges(Peers *peers, int64_t count) noexcept nogil

# Send and receive what links take and have now, for exchanges that have begun. Returns 0, or -1 with
# peers.failure set.
cdef int advance(Peers *peers) noexcept nogil

# Send out[r] to and receive into[r] from every other rank r, all at once. Sizes are in bytes and
# may be 0. Returns 0, or -1 with peers.failure set.
cdef int exchange(Peers *peers, const uint8_t *const *out, const int64_t *out_bytes,
              uint8_t *const *into, const int64_t *into_bytes) noexcept nogil

# dst [n] = the sum of src [n] of all nodes, by the transport itself, in its own order; src: NULL for
# zeros. Returns 0, or -1 with peers.failure set; its rank is this node's if nobody knows who is late.
cdef int transport_sum(Peers *peers, const float *src, float *dst, int64_t n) noexcept nogil
