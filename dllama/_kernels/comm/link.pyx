"""Links to other nodes, as Python sees them: whole messages, with timeouts."""

import os

from dllama.errors import TransportError, TransportTimeoutError


cdef extern from "errno.h" nogil:
    int ECANCELED
    int ECONNRESET
    int EPIPE
    int ETIMEDOUT

cdef extern from "threads.h" nogil:
    int64_t dl_now()

# Nanoseconds that a receiver spins before it sleeps: about the time between two tokens.
cdef int64_t EAGER = 1000000


cdef class Link:
    """A connection to another node. Bytes arrive in order. One thread at a time may use it.

    A link that failed stays failed and repeats its first error.

    Attributes:
        peer: name of the other end, for messages.
        timeout: seconds without progress after which send and recv_into fail.
    """

    def __cinit__(self, *args, **kwargs):
        self.peer, self.timeout = "", 5.0

    def send(self, data):
        """Send all bytes of a C-contiguous buffer.

        Raises:
            TransportTimeoutError: no byte moved for `timeout` seconds.
            TransportError: the link failed.
        """
        cdef const unsigned char[::1] view = memoryview(data).cast("B")
        cdef int64_t n = view.shape[0]
        if n:
            self._check(_move(&self.hot, <char *> &view[0], n, True, self._limit()), "sending to")

    def recv_into(self, buffer):
        """Receive until a writable C-contiguous buffer is full.

        Raises:
            TransportTimeoutError: no byte moved for `timeout` seconds.
            TransportError: the link failed.
        """
        cdef unsigned char[::1] view = memoryview(buffer).cast("B")
        cdef int64_t n = view.shape[0]
        if n:
            self._check(_move(&self.hot, <char *> &view[0], n, False, self._limit()),
                        "receiving from")

    def wait(self, double seconds):
        """Wait up to some seconds; return whether there is something to receive, or an error.

        It sleeps, but the first millisecond of a wait of up to 10 milliseconds is spent spinning.
        """
        return bool(_readable(&self.hot, <int64_t> (seconds * 1e9)))

    def ended(self):
        """Whether the peer has closed and everything it sent was received. Does not wait."""
        cdef int events = DL_READ | DL_CLOSED | DL_IDLE
        cdef dl_link *link = &self.hot
        if link.error == 0:
            link.ops.wait(&link, &events, 1, 0)
        return bool(link.error or events & DL_CLOSED and events & DL_READ)

    def close(self):
        """Close the connection. A second call does nothing."""
        if self.hot.error == 0:
            self.hot.error = -ECONNRESET

    @property
    def failed(self):
        """Whether the link was closed or has failed."""
        return self.hot.error != 0

    @property
    def sent_bytes(self):
        """Bytes sent so far."""
        return self.hot.sent

    @property
    def received_bytes(self):
        """Bytes received so far."""
        return self.hot.received

    @property
    def crowded(self):
        """Whether threads outnumber processors, so that waits must let others run."""
        return bool(self.hot.crowded)

    @crowded.setter
    def crowded(self, bint value):
        self.hot.crowded = value

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    cdef int64_t _limit(self):
        return <int64_t> (self.timeout * 1e9)

    cdef int _check(self, int error, str operation) except -1:
        if error:
            raise failure(error, operation, self.peer, self.timeout)
        return 0


cdef class SocketLink(Link):
    """A link over a connected stream socket, which it owns. The transport sets hot.ops."""

    def __cinit__(self, socket, str peer, *args, **kwargs):
        self._socket, self.peer = socket, peer
        self.hot.fd = socket.fileno()

    def close(self):
        if self._socket is not None:
            self.hot.ops.shutdown(&self.hot)
            self._socket.close()
            self._socket = None
        Link.close(self)

    def detach(self):
        """Return the socket for use by another link, and close this one."""
        socket, self._socket = self._socket, None
        if socket is None:
            raise failure(self.hot.error, "using", self.peer, self.timeout)
        Link.close(self)
        return socket


cdef int _move(dl_link *link, char *data, int64_t n, bint sending, int64_t limit) noexcept:
    """Send or receive n bytes. Returns 0 or a negative errno. Progress renews the time limit."""
    cdef int64_t done = 0, moved, now, end
    cdef int events
    with nogil:
        end = dl_now() + limit
        while done < n:
            moved = (dl_link_send(link, data + done, n - done) if sending
                     else dl_link_recv(link, data + done, n - done))
            if moved < 0:
                return <int> moved
            done += moved
            now = dl_now()
            if moved:
                end = now + limit
            elif now >= end:
                link.error = -ETIMEDOUT
                return -ETIMEDOUT
            else:
                events = DL_WRITE if sending else DL_READ
                events |= DL_IDLE if now > end - limit + EAGER or link.crowded else 0
                link.ops.wait(&link, &events, 1, end - now)
    return 0


cdef int _readable(dl_link *link, int64_t limit) noexcept:
    cdef int events = 0
    cdef int64_t now, begin = dl_now(), eager = EAGER if limit <= 10 * EAGER else 0
    if link.error:
        return DL_READ
    if link.crowded:
        eager = 0
    with nogil:
        while True:
            now = dl_now() - begin
            events = DL_READ | DL_IDLE
            link.ops.wait(&link, &events, 1, 0 if now < eager else max(0, limit - now))
            if events & DL_READ or now >= limit:
                return events & DL_READ


cdef object failure(int error, str operation, str peer, double timeout):
    if error == -ETIMEDOUT:
        return TransportTimeoutError(f"{operation} {peer}: no byte moved for {timeout:g} s")
    if error in (-ECONNRESET, -EPIPE):
        return TransportError(f"{operation} {peer}: the connection is closed")
    if error == -ECANCELED:
        return TransportError(f"{operation} {peer}: given up, as another node failed")
    return TransportError(f"{operation} {peer}: {os.strerror(-error)}")
