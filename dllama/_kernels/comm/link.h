/* A link to another node as kernels see it: the fast half of a transport.
 *
 * Nothing here needs the GIL. A link carries bytes in order in both directions. After a failure it
 * stays failed, and every later call returns the first error again.
 */
#ifndef DL_LINK_H
#define DL_LINK_H

#include <errno.h>
#include <stdint.h>

typedef struct dl_link dl_link;
struct dl_tls;

/* What wait waits for and reports: a set of bits for each link. */
enum {
    DL_READ = 1,   /* bytes can be received, or an error */
    DL_WRITE = 2,  /* bytes can be sent, or an error */
    DL_CLOSED = 4, /* with DL_READ: report whether the peer has closed */
    DL_IDLE = 8,   /* input only: nothing is urgent, the wait should use no processor time */
    DL_LATE = 16,  /* input only: the wait is long already, others may need the processor */
};

typedef struct {
    /* Send or receive up to n bytes without waiting. Returns the bytes moved, 0 if none can be
     * moved now, or a negative errno. */
    int64_t (*send_some)(dl_link *link, const void *data, int64_t n);
    int64_t (*recv_some)(dl_link *link, void *data, int64_t n);
    /* Return when one of n links may be ready, after `nanoseconds` at the latest. It may return
     * early, so callers try again. events: what to wait for; on return, what was found. All links
     * are of this transport. */
    void (*wait)(dl_link *const *links, int *events, int n, int64_t nanoseconds);
    /* End both directions. The peer sees the end, and every wait on the link returns. */
    void (*shutdown)(dl_link *link);
    /* Only where the transport has an all-reduce of its own, else NULL: dst [n] = the sum of src [n]
     * over all nodes that it connects; src may be NULL for zeros. The first call begins, more calls
     * with the same arguments go on. Returns 1 when it is done, 0 before, or a negative errno. With
     * n < 0 what was begun is given up, and no other one can begin. */
    int (*sum_some)(dl_link *link, const float *src, float *dst, int64_t n);
} dl_link_ops;

struct dl_link {
    const dl_link_ops *ops;
    int fd;           /* file descriptor, for transports that have one */
    void *own;        /* what else a transport keeps for the link, or NULL */
    struct dl_tls *tls; /* what encrypts its bytes (tls.h), or NULL */
    int crowded;      /* more threads than processors: a wait yields its processor at once */
    int error;        /* 0, or the first error, a negative errno */
    int64_t sent, received;
};

/* send_some and recv_some, with the link's counters and its first error. */
static inline int64_t dl_link_send(dl_link *link, const void *data, int64_t n)
{
    if (link->error) return link->error;
    int64_t moved = link->ops->send_some(link, data, n);
    if (moved < 0) link->error = (int)moved; else link->sent += moved;
    return moved;
}

static inline int64_t dl_link_recv(dl_link *link, void *data, int64_t n)
{
    if (link->error) return link->error;
    int64_t moved = link->ops->recv_some(link, data, n);
    if (moved < 0) link->error = (int)moved; else link->received += moved;
    return moved;
}

#endif
