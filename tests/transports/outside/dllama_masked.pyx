"""TCP whose bytes are masked: a transport with a hot half of its own."""

from dllama._kernels.comm.link cimport (
    SocketLink, dl_link, dl_link_ops, dl_socket_recv, dl_socket_send, dl_socket_shutdown,
    dl_socket_sleep,
)
from libc.stdint cimport int64_t

from dllama.errors import ConfigError
from dllama.transports.base import Transport
from dllama.transports.sockets import connect_tcp, listen_tcp, prepared

cdef enum:
    PIECE = 4096
    MASK = 0x5a


cdef int64_t send_masked(dl_link *link, const void *data, int64_t n) noexcept nogil:
    cdef char piece[PIECE]
    cdef int64_t i, count = min(n, PIECE)
    for i in range(count):
        piece[i] = (<const char *> data)[i] ^ MASK
    return dl_socket_send(link, piece, count)


cdef int64_t recv_masked(dl_link *link, void *data, int64_t n) noexcept nogil:
    cdef int64_t i, count = dl_socket_recv(link, data, n)
    for i in range(count):
        (<char *> data)[i] ^= MASK
    return count


cdef dl_link_ops OPS
OPS.send_some = send_masked
OPS.recv_some = recv_masked
OPS.wait = dl_socket_sleep
OPS.shutdown = dl_socket_shutdown


cdef class MaskedLink(SocketLink):
    def __cinit__(self, *args):
        self.hot.ops = &OPS


def bare(address):
    if not address.startswith("masked://"):
        raise ConfigError(f"address is {address!r}, expected masked://HOST:PORT")
    return address.removeprefix("masked://")


class Masked(Transport):
    name = "masked"
    scheme = "masked"

    def listen(self, address):
        listener = listen_tcp(bare(address), MaskedLink)
        listener.address = f"masked://{listener.address}"
        return listener

    def connect(self, address, timeout):
        return connect_tcp(bare(address), timeout, MaskedLink)

    def adopt(self, link):
        return MaskedLink(prepared(link.detach()), link.peer)


TRANSPORT = Masked()
