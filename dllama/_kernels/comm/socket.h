/* Links over stream sockets: what TCP and Unix sockets share. */
#ifndef DL_SOCKET_H
#define DL_SOCKET_H

#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include "link.h"
#include "threads.h"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: the socket has SO_NOSIGPIPE instead */
#endif

/* Most links in one call of poll. A wait on more links only looks at the first of them. */
enum { DL_POLL_MOST = 512 };

static inline int64_t dl_socket_send(dl_link *link, const void *data, int64_t n)
{
    ssize_t moved = send(link->fd, data, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (moved >= 0) return moved;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

static inline int64_t dl_socket_recv(dl_link *link, void *data, int64_t n)
{
    if (n == 0) return 0;
    ssize_t moved = recv(link->fd, data, (size_t)n, MSG_DONTWAIT);
    if (moved > 0) return moved;
    if (moved == 0) return -ECONNRESET;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

static inline int dl_socket_closed(dl_link *link)
{
    char byte;
    ssize_t n = recv(link->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* Sleep in the kernel. */
static inline void dl_socket_sleep(dl_link *const *links, int *events, int n, int64_t nanoseconds)
{
    struct pollfd fds[DL_POLL_MOST];
    unsigned most = n < DL_POLL_MOST ? (unsigned)n : DL_POLL_MOST;
    int64_t ms = (nanoseconds + 999999) / 1000000;
    for (unsigned i = 0; i < most; i++) {
        fds[i].fd = links[i]->fd;
        fds[i].events = (short)((events[i] & DL_READ ? POLLIN : 0) | (events[i] & DL_WRITE ? POLLOUT : 0));
        fds[i].revents = 0;
    }
    if (poll(fds, most, ms > 1000000 ? 1000000 : (int)ms) < 0) most = 0;
    for (int i = 0; i < n; i++) {
        int asked = events[i], found = (unsigned)i < most ? fds[i].revents : 0;
        int ended = found & (POLLERR | POLLHUP | POLLNVAL);
        events[i] = (found & POLLIN || ended ? asked & DL_READ : 0)
                  | (found & POLLOUT || ended ? asked & DL_WRITE : 0);
        if (asked & DL_CLOSED && events[i] & DL_READ && dl_socket_closed(links[i]))
            events[i] |= DL_CLOSED;
    }
}

/* Return soon and report everything as ready, since trying is as cheap as asking. Sleep only if
 * nothing is urgent. If the wait is long already, yield: the peer may need this very processor. In a
 * crowd it does: who then ran for long is a peer, and no peer should wait for one that polls. */
static inline void dl_socket_spin(dl_link *const *links, int *events, int n, int64_t nanoseconds)
{
    int crowded = n > 0 && links[0]->crowded;
    if (n > 0 && (events[0] & DL_IDLE || (crowded && dl_yield()))) {
        dl_socket_sleep(links, events, n, nanoseconds);
        return;
    }
    if (n > 0 && !crowded && events[0] & DL_LATE) sched_yield();
    else if (!crowded) for (int i = 0; i < 8; i++) dl_pause();
    for (int i = 0; i < n; i++) events[i] &= DL_READ | DL_WRITE;
}

static inline void dl_socket_shutdown(dl_link *link)
{
    shutdown(link->fd, SHUT_RDWR);
}

#endif
