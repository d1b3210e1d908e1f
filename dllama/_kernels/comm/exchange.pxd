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


# Send out[r] to and receive into[r] from every other rank r, all at once. Sizes are in bytes and
# may be 0. Returns 0, or -1 with peers.failure set.
cdef int exchange(Peers *peers, const uint8_t *const *out, const int64_t *out_bytes,
              uint8_t *const *into, const int64_t *into_bytes) noexcept nogil

# dst [n] = the sum of src [n] of all nodes, by the transport itself, in its own order; src: NULL for
# zeros. Returns 0, or -1 with peers.failure set; its rank is this node's if nobody knows who is late.
cdef int transport_sum(Peers *peers, const float *src, float *dst, int64_t n) noexcept nogil
