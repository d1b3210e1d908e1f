/* A link to another node as kernels see it: the hot half of a transport.
 *
 * Nothing here needs the GIL. A link carries bytes in order in both directions; after a
 * failure it stays failed, and every later call gives the first error again.
 */
#ifndef DL_LINK_H
#define DL_LINK_H

#include <errno.h>
#include <stdint.h>

typedef struct dl_link dl_link;

/* What wait waits for and reports, one set of bits for each link. */
enum {
    DL_READ = 1,   /* bytes can be received, or an error */
    DL_WRITE = 2,  /* bytes can be sent, or an error */
    DL_CLOSED = 4, /* asked together with DL_READ: report whether the peer has closed */
    DL_IDLE = 8,   /* asked only: nothing is urgent, so the wait should cost no processor time */
    DL_LATE = 16,  /* asked only: it takes long; other threads may need the processor */
};

typedef struct {
    /* Bytes moved, maybe fewer than n; 0 where none can be now; a negative errno. Never wait. */
    int64_t (*send_some)(dl_link *link, const void *data, int64_t n);
    int64_t (*recv_some)(dl_link *link, void *data, int64_t n);
    /* Return when one of n links may be ready, and after `nanoseconds` at the latest; earlier
     * is allowed, so callers try again. events: asked for, then found. The links are of the
     * transport that this is the table of. */
    void (*wait)(dl_link *const *links, int *events, int n, int64_t nanoseconds);
    /* End both directions: the peer sees the end, and every wait on the link returns. */
    void (*shutdown)(dl_link *link);
} dl_link_ops;

struct dl_link {
    const dl_link_ops *ops;
    int fd;           /* of transports that have one */
    int crowded;      /* more threads than processors: a wait gives its processor away at once */
    int error;        /* 0, or the first error, negative */
    int64_t sent, received;
};

/* As the table's functions, but with the link's counters and its first error. */
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
