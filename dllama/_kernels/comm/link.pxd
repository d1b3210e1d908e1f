# The link to another node: the contract between transports and collectives.
#
# A transport subclasses Link. The subclass sets hot.ops, and closes in close what it opened.
# Collectives only use hot, without the GIL, through dl_link_send and dl_link_recv.

from libc.stdint cimport int64_t


cdef extern from "comm/link.h" nogil:
    # The contract of the functions is in link.h.
    enum:
        DL_READ
        DL_WRITE
        DL_CLOSED
        DL_IDLE
        DL_LATE
    ctypedef struct dl_link_ops:
        int64_t (*send_some)(dl_link *link, const void *data, int64_t n) noexcept nogil
        int64_t (*recv_some)(dl_link *link, void *data, int64_t n) noexcept nogil
        void (*wait)(dl_link *const *links, int *events, int n, int64_t nanoseconds) noexcept nogil
        void (*shutdown)(dl_link *link) noexcept nogil
        int (*sum_some)(dl_link *link, const float *src, float *dst, int64_t n) noexcept nogil
    ctypedef struct dl_tls:
        pass
    ctypedef struct dl_link:
        const dl_link_ops *ops
        int fd
        void *own
        dl_tls *tls
        int crowded
        int error
        int64_t sent
        int64_t received
    int64_t dl_link_send(dl_link *link, const void *data, int64_t n)
    int64_t dl_link_recv(dl_link *link, void *data, int64_t n)

cdef extern from "comm/socket.h" nogil:
    int64_t dl_socket_send(dl_link *link, const void *data, int64_t n)
    int64_t dl_socket_recv(dl_link *link, void *data, int64_t n)
    void dl_socket_sleep(dl_link *const *links, int *events, int n, int64_t nanoseconds)
    void dl_socket_spin(dl_link *const *links, int *events, int n, int64_t nanoseconds)
    void dl_socket_shutdown(dl_link *link)


cdef class Link:
    cdef dl_link hot
    cdef public str peer            # name of the other end, for messages
    cdef public double timeout      # seconds without a byte after which a send or receive fails
    cdef double _allowed            # seconds after which all of them fail, for messages
    cdef int64_t _latest            # when, in nanoseconds of the monotonic clock
    cdef int _transfer(self, char *data, int64_t n, bint sending) except -1
    cdef readonly object encryption # what hot.tls belongs to (tls.pyx), or None


cdef class SocketLink(Link):
    cdef object _socket

# The exception for a negative errno of an operation ("sending to", ...) with a peer.
cdef object failure(int error, str operation, str peer, double timeout)
