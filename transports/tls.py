"""TLS 1.3 on links of any transport: the handshake. Bytes then move in dllama/_kernels/comm/tls.h.

Nobody checks certificates: the listener makes one for its process. What binds a connection to the
secret of the nodes is the value that `secure` returns, which their proofs cover. Somebody between
them who ends TLS on both sides has another value with each, so the proofs do not fit.
"""

from __future__ import annotations

import datetime
import functools
from typing import Any

from dllama._kernels.comm.link import Link
from dllama._kernels.comm.tls import Encryption, encrypt
from dllama.errors import ConfigError, ProtocolError

# It is fast without instructions for AES too, which a Raspberry Pi 4 lacks. Unlike with AES-GCM, a
# key may encrypt as much as a connection ever sends (RFC 8446, 5.5).
CIPHERS = b"TLS_CHACHA20_POLY1305_SHA256"
BINDING = b"EXPORTER-Channel-Binding"  # RFC 9266, tls-exporter
BINDING_BYTES = 32
FUNCTIONS = (
    "SSL_read", "SSL_peek", "SSL_write", "SSL_get_error", "ERR_clear_error",
    "BIO_read", "BIO_write",
)  # fmt: skip
HEADER = 5  # bytes: type, version (2), length (2)
MOST = 1 << 16  # bytes that the other side may send in a handshake


def secure(link: Link, caller: bool) -> bytes:
    """Do the handshake, and encrypt all that the link sends and receives from then on.

    Args:
        link: both sides have received all that the other one sent before.
        caller: whether this side opened the connection.

    Returns:
        The channel binding of RFC 9266 (tls-exporter): 32 bytes that only both ends know.

    Raises:
        ProtocolError: the other side sent something that is no handshake of TLS 1.3.
        TransportError: the link failed.
    """
    ssl, context = _library().ssl, _context()
    connection = ssl.Connection(context, None)
    connection.set_connect_state() if caller else connection.set_accept_state()
    received = 0
    while True:
        try:
            connection.do_handshake()
            done = True
        except ssl.WantReadError:
            done = False
        except ssl.Error as error:
            _pass_on(connection, link)
            raise ProtocolError(f"{link.peer}: no TLS 1.3: {_reason(error)}") from error
        _pass_on(connection, link)
        if done:
            encrypt(link, _encryption(connection))
            binding: bytes = connection.export_keying_material(BINDING, BINDING_BYTES, b"")
            return binding
        record = _receive(link)
        received += len(record)
        if received > MOST:
            raise ProtocolError(f"{link.peer}: a TLS handshake of more than {MOST} bytes")
        connection.bio_write(record)


def adopt(transport: Any, link: Link) -> Link:
    """Call Transport.adopt. The new link goes on with the encryption of the old one."""
    encryption = link.encryption
    adopted: Link = transport.adopt(link)
    if encryption is not None:
        assert isinstance(encryption, Encryption)
        encrypt(adopted, encryption)
    return adopted


class _Library:
    """What is used of pyOpenSSL and cryptography, imported only where there is TLS."""

    def __init__(self) -> None:
        try:
            from cryptography.hazmat.bindings._rust import _openssl
            from OpenSSL import SSL
        except ImportError as error:
            raise ConfigError(
                f"TLS needs the packages pyOpenSSL and cryptography ({error}); --plain does without"
            ) from error
        self.ssl: Any = SSL
        self._ffi: Any = _openssl.ffi
        lib: Any = _openssl.lib
        self.functions = [self.address(self._ffi.addressof(lib, name)) for name in FUNCTIONS]

    def address(self, pointer: Any) -> int:
        return int(self._ffi.cast("uintptr_t", pointer))


@functools.cache
def _library() -> _Library:
    return _Library()


@functools.cache
def _context() -> Any:
    """Return what all connections of this process have in common, both ways."""
    ssl = _library().ssl
    context = ssl.Context(ssl.TLS_METHOD)
    context.set_min_proto_version(ssl.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHERS)
    context.set_session_cache_mode(ssl.SESS_CACHE_OFF)
    # The end of a connection needs no word of TLS: BYE says that a session is over, and every other
    # end is an error.
    context.set_options(ssl.OP_NO_TICKET | ssl.OP_IGNORE_UNEXPECTED_EOF)
    key, certificate = _certificate()
    context.use_privatekey(key)
    context.use_certificate(certificate)
    return context


def _certificate() -> tuple[Any, Any]:
    """Make a key and a certificate for this process. They prove nothing; TLS asks for them."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dllama")])
    made = datetime.datetime(2000, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(made).not_valid_after(datetime.datetime(9999, 12, 31))
    return key, builder.sign(key, None)


def _encryption(connection: Any) -> Encryption:
    library = _library()
    pointers = connection._ssl, connection._into_ssl, connection._from_ssl
    return Encryption(connection, library.functions, [library.address(one) for one in pointers])


def _pass_on(connection: Any, link: Link) -> None:
    """Send what TLS has to say."""
    ssl = _library().ssl
    while True:
        try:
            said = connection.bio_read(MOST)
        except ssl.WantReadError:
            return
        link.send(said)


def _receive(link: Link) -> bytes:
    """Receive a record of TLS: no byte of what may follow it."""
    header = bytearray(HEADER)
    link.recv_into(header)
    content = bytearray(int.from_bytes(header[3:], "big"))
    link.recv_into(content)
    return bytes(header + content)


def _reason(error: Exception) -> str:
    """Return the text of an error of pyOpenSSL, which has a list of (library, function, text)."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(str(reason[-1]) for reason in reasons) or str(error) or type(error).__name__
