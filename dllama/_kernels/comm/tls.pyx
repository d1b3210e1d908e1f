"""Links whose bytes TLS encrypts, without the GIL. dllama.transports.tls makes the connection."""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free

from dllama._kernels.comm.link cimport Link, dl_link_ops, dl_tls


cdef extern from "comm/tls.h" nogil:
    ctypedef struct dl_tls_hot "dl_tls":
        int (*read)(void *, void *, int) noexcept nogil
        int (*peek)(void *, void *, int) noexcept nogil
        int (*write)(void *, const void *, int) noexcept nogil
        int (*get_error)(const void *, int) noexcept nogil
        void (*clear_errors)() noexcept nogil
        int (*bio_read)(void *, void *, int) noexcept nogil
        int (*bio_write)(void *, const void *, int) noexcept nogil
        void *ssl
        void *incoming
        void *outgoing
        const dl_link_ops *under
    const dl_link_ops dl_tls_ops


cdef class Encryption:
    """TLS of one connection, after the handshake.

    Args:
        owner: what keeps the connection of the library alive.
        functions: addresses of SSL_read, SSL_peek, SSL_write, SSL_get_error, ERR_clear_error,
            BIO_read and BIO_write.
        connection: addresses of the SSL, and of the BIOs that it reads from and writes to.
    """

    cdef dl_tls_hot *_tls
    cdef object _owner

    def __cinit__(self, owner, functions, connection):
        cdef uintptr_t read, peek, write, get_error, clear, bio_read, bio_write, ssl, into, out
        read, peek, write, get_error, clear, bio_read, bio_write = functions
        ssl, into, out = connection
        self._owner = owner
        self._tls = <dl_tls_hot *> calloc(1, sizeof(dl_tls_hot))
        if self._tls == NULL:
            raise MemoryError()
        self._tls.read = <int (*)(void *, void *, int) noexcept nogil> read
        self._tls.peek = <int (*)(void *, void *, int) noexcept nogil> peek
        self._tls.write = <int (*)(void *, const void *, int) noexcept nogil> write
        self._tls.get_error = <int (*)(const void *, int) noexcept nogil> get_error
        self._tls.clear_errors = <void (*)() noexcept nogil> clear
        self._tls.bio_read = <int (*)(void *, void *, int) noexcept nogil> bio_read
        self._tls.bio_write = <int (*)(void *, const void *, int) noexcept nogil> bio_write
        self._tls.ssl, self._tls.incoming = <void *> ssl, <void *> into
        self._tls.outgoing = <void *> out

    def __dealloc__(self):
        free(self._tls)


def encrypt(Link link, Encryption encryption):
    """Encrypt what a link sends and receives from now on."""
    if link.hot.tls != NULL:
        raise ValueError(f"{link.peer} is encrypted already")
    encryption._tls.under = link.hot.ops
    link.hot.tls = <dl_tls *> encryption._tls
    link.hot.ops = &dl_tls_ops
    link.encryption = encryption
