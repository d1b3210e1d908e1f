"""TCP that sleeps in the kernel until data arrives."""

from dllama._kernels.comm.link cimport (
    SocketLink, dl_link_ops, dl_socket_recv, dl_socket_send, dl_socket_shutdown, dl_socket_sleep,
)

from dllama.transports.base import Transport
from dllama.transports.sockets import connect_tcp, listen_tcp, prepared

cdef dl_link_ops OPS
OPS.send_some = dl_socket_send
OPS.recv_some = dl_socket_recv
OPS.wait = dl_socket_sleep
OPS.shutdown = dl_socket_shutdown


cdef class BlockingLink(SocketLink):
    def __cinit__(self, *args):
        self.hot.ops = &OPS


class Blocking(Transport):
    name = "blocking"
    scheme = "tcp"

    def listen(self, address):
        return listen_tcp(address, BlockingLink)

    def connect(self, address, timeout):
        return connect_tcp(address, timeout, BlockingLink)

    def adopt(self, link):
        return BlockingLink(prepared(link.detach()), link.peer)


TRANSPORT = Blocking()
