"""Unix sockets, for nodes on one machine; they poll without sleeping."""

from dllama._kernels.comm.link cimport (
    SocketLink, dl_link_ops, dl_socket_recv, dl_socket_send, dl_socket_shutdown, dl_socket_spin,
)

from dllama.transports.base import Transport
from dllama.transports.sockets import connect_unix, listen_unix, prepared

cdef dl_link_ops OPS
OPS.send_some = dl_socket_send
OPS.recv_some = dl_socket_recv
OPS.wait = dl_socket_spin
OPS.shutdown = dl_socket_shutdown


cdef class UnixLink(SocketLink):
    def __cinit__(self, *args):
        self.hot.ops = &OPS


class Unix(Transport):
    name = "unix"
    scheme = "unix"
    local = True

    def listen(self, address):
        return listen_unix(address, UnixLink)

    def connect(self, address, timeout):
        return connect_unix(address, timeout, UnixLink)

    def adopt(self, link):
        return UnixLink(prepared(link.detach()), link.peer)

    def local_address(self, folder, rank):
        return f"unix:{folder}/{rank}.sock"


TRANSPORT = Unix()
