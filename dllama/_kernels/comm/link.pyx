"""Links to other nodes, as Python sees them: whole messages, with timeouts."""

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport isinf
from libc.stdint cimport INT64_MAX

import ipaddress
import math
import os
import socket as sockets
import sys
import time

from dllama.errors import TransportError, TransportTimeoutError


cdef extern from "errno.h" nogil:
    int EBADMSG
    int ECANCELED
    int ECONNRESET
    int EINTR
    int EPIPE
    int ETIME
    int ETIMEDOUT

cdef extern from "Python.h" nogil:
    # Not so while the process ends: then a daemon thread that takes the GIL may crash it.
    int Py_IsInitialized()

cdef extern from "threads.h" nogil:
    int64_t dl_now()

# Nanoseconds that a receiver spins before it sleeps: about the time between two tokens.
cdef int64_t EAGER = 1000000

# Nanoseconds of a wait after which signals are heeded.
cdef int64_t LOOK = 100000000

# Where Linux's struct tcp_info has tcpi_min_rtt, in microseconds, and what that is before any.
MIN_RTT, UNKNOWN_RTT = 148, 0xFFFFFFFF


cdef class Link:
    """A connection to another node. Bytes arrive in order. One thread at a time may use it.

    A link that failed stays failed and repeats its first error. Signals are heeded while it waits; a
    handler's exception comes out of the method that waits.

    Attributes:
        peer: name of the other end, for messages.
        timeout: seconds without progress after which send and recv_into fail.
        encryption: the dllama._kernels.comm.tls.Encryption of its bytes, or None.
    """

    def __cinit__(self, *args, **kwargs):
        self.peer, self.timeout = "", 5.0
        self._allowed, self._latest = math.inf, INT64_MAX

    def allow(self, double seconds, since=None):
        """Let everything that follows take so long in all, whatever moves.

        Args:
            seconds: inf for no limit but that of `timeout`.
            since: when they began, in seconds of time.monotonic(); None: now.
        """
        cdef double begin = time.monotonic() if since is None else since
        self._allowed = seconds
        self._latest = INT64_MAX if isinf(seconds) else <int64_t> ((begin + seconds) * 1e9)

    def send(self, data):
        """Send all bytes of a C-contiguous buffer.

        Raises:
            TransportTimeoutError: no byte moved for `timeout` seconds, or time is up (see allow).
            TransportError: the link failed.
        """
        cdef const unsigned char[::1] view = memoryview(data).cast("B")
        cdef int64_t n = view.shape[0]
        if n:
            self._transfer(<char *> &view[0], n, True)

    def recv_into(self, buffer):
        """Receive until a writable C-contiguous buffer is full.

        Raises:
            TransportTimeoutError: no byte moved for `timeout` seconds, or time is up (see allow).
            TransportError: the link failed.
        """
        cdef unsigned char[::1] view = memoryview(buffer).cast("B")
        cdef int64_t n = view.shape[0]
        if n:
            self._transfer(<char *> &view[0], n, False)

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

    def keep_alive(self, double seconds):
        """Fail within so many seconds if the peer's machine or the way to it has gone, even if
        nothing is sent. A process that is only stopped has not gone. Of use for TCP alone.
        """

    def interrupt(self):
        """End both directions, from any thread: a thread that waits gets an error. Still close it."""
        if self.hot.error == 0:
            self.hot.ops.shutdown(&self.hot)

    def close(self):
        """Close the connection. A second call does nothing."""
        if self.hot.error == 0:
            self.hot.error = -ECONNRESET

    @property
    def exposed(self):
        """Whether its bytes may leave this machine, so that others may read or alter them."""
        return True

    @property
    def round_trip(self):
        """Seconds of the fastest round trip so far, between the systems of both ends; None where
        that is not known. Of use for TCP on Linux alone.
        """
        return None

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

    cdef int _transfer(self, char *data, int64_t n, bint sending) except -1:
        cdef int64_t limit = <int64_t> (self.timeout * 1e9)
        cdef int error = _move(&self.hot, data, n, sending, limit, self._latest)
        if error:
            raise failure(error, "sending to" if sending else "receiving from", self.peer,
                          self._allowed if error == -ETIME else self.timeout)
        return 0


cdef class SocketLink(Link):
    """A link over a connected stream socket, which it owns. The transport sets hot.ops."""

    def __cinit__(self, connection, str peer, *args, **kwargs):
        self._socket, self.peer = connection, peer
        self.hot.fd = connection.fileno()

    def keep_alive(self, double seconds):
        values = {
            "TCP_KEEPIDLE": max(1, int(seconds / 4)),
            "TCP_KEEPINTVL": max(1, int(seconds / 8)),
            "TCP_KEEPCNT": 4,  # counts where there is no TCP_USER_TIMEOUT
            "TCP_USER_TIMEOUT": int(750 * seconds),  # milliseconds, for bytes on the way too
        }
        if self._socket is None or self._socket.family == sockets.AF_UNIX:
            return
        for name, value in values.items():
            if hasattr(sockets, name):
                self._socket.setsockopt(sockets.IPPROTO_TCP, getattr(sockets, name), value)

    def interrupt(self):
        if self._socket is not None:  # else its descriptor may be another connection's by now
            self.hot.ops.shutdown(&self.hot)

    def close(self):
        connection, self._socket = self._socket, None
        if connection is not None:
            self.hot.ops.shutdown(&self.hot)
            connection.close()
        Link.close(self)

    @property
    def exposed(self):
        """Whether its bytes may leave this machine: not over Unix sockets and loopback."""
        try:
            return self._socket.family != sockets.AF_UNIX and not _loopback(self._socket.getpeername())
        except (OSError, AttributeError):  # disconnected, or closed
            return True

    @property
    def round_trip(self):
        if not sys.platform.startswith("linux"):
            return None
        try:
            told = self._socket.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, MIN_RTT + 4)
        except (OSError, AttributeError):  # no TCP, or closed
            return None
        least = int.from_bytes(told[MIN_RTT:], sys.byteorder)
        return 1e-6 * least if len(told) == MIN_RTT + 4 and least < UNKNOWN_RTT else None

    def detach(self):
        """Return the socket for use by another link, and close this one."""
        connection, self._socket = self._socket, None
        if connection is None:
            raise failure(self.hot.error, "using", self.peer, self.timeout)
        Link.close(self)
        return connection


cdef bint _loopback(tuple peer) except -1:
    """Whether an address, as sockets give it, is one of this machine alone."""
    host = ipaddress.ip_address(peer[0].partition("%")[0])
    return (getattr(host, "ipv4_mapped", None) or host).is_loopback


cdef int _move(dl_link *link, char *data, int64_t n, bint sending, int64_t limit,
               int64_t latest) except 1:
    """Send or receive n bytes. Returns 0 or a negative errno.

    Args:
        limit: nanoseconds without progress.
        latest: when to give up even if there is progress. The error is that of the limit that was
            reached first, however late this thread looks.
    """
    cdef int64_t done = 0, moved, begin, now, end
    cdef int events, error = 0
    with nogil:
        begin = dl_now()
        end = begin + limit
        while done < n and not error:
            moved = (dl_link_send(link, data + done, n - done) if sending
                     else dl_link_recv(link, data + done, n - done))
            if moved < 0:
                return <int> moved
            done += moved
            now = dl_now()
            if moved:
                begin, end = now, now + limit
            if done < n and now >= min(end, latest):
                error = link.error = -ETIMEDOUT if end < latest else -ETIME
            elif not moved:
                events = DL_WRITE if sending else DL_READ
                events |= DL_IDLE if now > begin + EAGER or link.crowded else 0
                link.ops.wait(&link, &events, 1, min(end - now, latest - now, LOOK))
                if now > begin + LOOK and Py_IsInitialized():
                    with gil:
                        _heed_signals(link, done)
    return error


cdef int _heed_signals(dl_link *link, int64_t done) except -1:
    """Raise what a signal handler raises. What is cut within `done` bytes cannot be used any more."""
    try:
        PyErr_CheckSignals()
    except BaseException:
        if done and not link.error:
            link.error = -EINTR
        raise


cdef int _readable(dl_link *link, int64_t limit) except -1:
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
            link.ops.wait(&link, &events, 1, 0 if now < eager else max(0, min(limit - now, LOOK)))
            if events & DL_READ or now >= limit:
                return events & DL_READ
            if now > LOOK and Py_IsInitialized():
                with gil:
                    _heed_signals(link, 0)


cdef object failure(int error, str operation, str peer, double timeout):
    if error == -ETIMEDOUT:
        return TransportTimeoutError(f"{operation} {peer}: no byte moved for {timeout:g} s")
    if error == -ETIME:
        return TransportTimeoutError(f"{operation} {peer}: not done within {timeout:g} s")
    if error in (-ECONNRESET, -EPIPE):
        return TransportError(f"{operation} {peer}: the connection is closed")
    if error == -EBADMSG:
        return TransportError(f"{operation} {peer}: the bytes were altered on their way")
    if error == -ECANCELED:
        return TransportError(f"{operation} {peer}: given up, as another node failed")
    return TransportError(f"{operation} {peer}: {os.strerror(-error)}")
