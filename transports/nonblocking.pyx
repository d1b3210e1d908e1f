"""TCP that polls without sleeping: the lowest latency, for the price of a busy core."""

from dllama._kernels.comm.link cimport (
    SocketLink, dl_link_ops, dl_socket_recv, dl_socket_send, dl_socket_shutdown, dl_socket_spin,
)

from dllama.transports.base import Transport
from dllama.transports.sockets import connect_tcp, listen_tcp, prepared

cdef dl_link_ops OPS
OPS.send_some = dl_socket_send
OPS.recv_some = dl_socket_recv
OPS.wait = dl_socket_spin
OPS.shutdown = dl_socket_shutdown


cdef class NonblockingLink(SocketLink):
    def __cinit__(self, *args):
        self.hot.ops = &OPS


class Nonblocking(Transport):
    name = "nonblocking"
    scheme = "tcp"

    def listen(self, address):
        return listen_tcp(address, NonblockingLink)

    def connect(self, address, timeout):
        return connect_tcp(address, timeout, NonblockingLink)

    def adopt(self, link):
        return NonblockingLink(prepared(link.detach()), link.peer)


TRANSPORT = Nonblocking()
