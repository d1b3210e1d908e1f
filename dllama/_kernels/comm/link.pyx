"""Links to other nodes, and their cold half: whole messages, with timeouts."""

import os

from dllama.errors import TransportError, TransportTimeoutError


cdef extern from "errno.h" nogil:
    int ECANCELED
    int ECONNRESET
    int EPIPE
    int ETIMEDOUT

cdef extern from "threads.h" nogil:
    int64_t dl_now()

# A receiver looks this long before it sleeps: about what lies between two tokens.
cdef int64_t EAGER = 1000000


cdef class Link:
    """A connection to one other node; bytes arrive in order. One thread at a time may use it.

    peer: who is at the other end, for messages. timeout: seconds without progress after which
    send and recv_into fail. A link that failed stays failed and repeats its first error.
    """

    def __cinit__(self, *args, **kwargs):
        self.peer, self.timeout = "", 5.0

    def send(self, data):
        """Send all bytes of a C-contiguous buffer. TransportError, TransportTimeoutError."""
        cdef const unsigned char[::1] view = memoryview(data).cast("B")
        cdef int64_t n = view.shape[0]
        if n:
            self._check(_move(&self.hot, <char *> &view[0], n, True, self._limit()), "sending to")

    def recv_into(self, buffer):
        """Fill a writable C-contiguous buffer. TransportError, TransportTimeoutError."""
        cdef unsigned char[::1] view = memoryview(buffer).cast("B")
        cdef int64_t n = view.shape[0]
        if n:
            self._check(_move(&self.hot, <char *> &view[0], n, False, self._limit()),
                        "receiving from")

    def wait(self, double seconds):
        """Whether there is something to receive, or an error, within this time.

        Sleeps meanwhile, except in the first milliseconds of a wait of some milliseconds.
        """
        return bool(_readable(&self.hot, <int64_t> (seconds * 1e9)))

    def ended(self):
        """Whether the other side has closed and all it sent was received; does not wait."""
        cdef int events = DL_READ | DL_CLOSED | DL_IDLE
        cdef dl_link *link = &self.hot
        if link.error == 0:
            link.ops.wait(&link, &events, 1, 0)
        return bool(link.error or events & DL_CLOSED and events & DL_READ)

    def close(self):
        """End the connection; a second call does nothing."""
        if self.hot.error == 0:
            self.hot.error = -ECONNRESET

    @property
    def failed(self):
        """Whether the link was closed or an error ended it."""
        return self.hot.error != 0

    @property
    def sent_bytes(self):
        """Bytes sent since the link was made."""
        return self.hot.sent

    @property
    def received_bytes(self):
        """Bytes received since the link was made."""
        return self.hot.received

    @property
    def crowded(self):
        """Whether threads outnumber processors, so that waiting must let others run."""
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
    """A link over a connected stream socket, which it owns; its transport sets the table."""

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
        """Give the socket to another link; this one is closed then."""
        socket, self._socket = self._socket, None
        if socket is None:
            raise failure(self.hot.error, "using", self.peer, self.timeout)
        Link.close(self)
        return socket


cdef int _move(dl_link *link, char *data, int64_t n, bint sending, int64_t limit) noexcept:
    """Send or receive n bytes; 0 or a negative error. Progress renews the time limit."""
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
