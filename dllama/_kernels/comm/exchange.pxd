# What all collectives are made of: messages to and from all peers at once.

from libc.stdint cimport int64_t, uint8_t

from dllama._kernels.comm.link cimport dl_link


# Most nodes of a cluster.
cdef enum:
    MOST_NODES = 256

# What happened to an exchange that failed: its peer's rank, and a negative errno; 0 before.
cdef struct Failure:
    int error
    int rank
    bint sending


# The links of a node, and what all its exchanges share.
cdef struct Peers:
    int world_size, rank
    dl_link *links[MOST_NODES]      # [world_size], NULL at rank
    dl_link *watched[MOST_NODES]    # control links: an exchange is given up when one ends
    int watched_ranks[MOST_NODES]
    int n_watched
    int64_t patience                # nanoseconds without a byte before an exchange fails
    Failure failure


# Send out[r] and receive into into[r], for every other rank r, all at once; sizes in bytes, 0 for
# nothing. 0, or -1 with peers.failure set.
cdef int exchange(Peers *peers, const uint8_t *const *out, const int64_t *out_bytes,
              uint8_t *const *into, const int64_t *into_bytes) noexcept nogil
