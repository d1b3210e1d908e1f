"""What socket transports share: connecting and listening."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import queue
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllama._kernels.comm.link import Link
from dllama.errors import ConfigError, ExhaustedError, TransportError, TransportTimeoutError
from dllama.transports.base import Listener

MakeLink = Callable[[socket.socket, str], Link]
BACKLOG = 64
# Errors of accept that say something of the listener. All others are those of a connection.
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
CLOSED = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}
# Detects within half a minute of silence that the peer's machine or network is gone.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


def parse_tcp(address: str) -> tuple[str, int]:
    """Parse HOST:PORT or [IPV6]:PORT, with or without tcp:// in front."""
    bare = address.removeprefix("tcp://")
    host, colon, port = bare.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"address is {address!r}, expected HOST:PORT or [IPV6]:PORT")
    return host, int(port)


def format_tcp(host: str, port: int) -> str:
    """Format HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_unix(address: str) -> str:
    """Return the path of unix:/path or unix:///path."""
    path = address.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("///") else path
    if not address.startswith("unix:") or not path.startswith("/"):
        raise ConfigError(f"address is {address!r}, expected unix:/path")
    if len(os.fsencode(path)) > 100:  # sockaddr_un holds 104 to 108 bytes
        raise ConfigError(f"address is {address!r}, expected a path of at most 100 bytes")
    return path


def network_of(peer: str) -> str:
    """Return what the names of all links to one client have in common.

    Args:
        peer: HOST:PORT, [IPV6]:PORT, an address alone, or anything else.

    Returns:
        The address; of one in IPv6, the first half, since hosts choose the rest.
    """
    host = peer
    with contextlib.suppress(ConfigError):
        host, _ = parse_tcp(peer)
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if parsed.version == 6 and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


class SocketListener(Listener):
    """Listens on a stream socket.

    Args:
        server: a listening socket.
        address: where to connect to.
        make: creates a link from a connected socket and the peer's name.
        path: socket file to remove on close, if any.
    """

    def __init__(
        self, server: socket.socket, address: str, make: MakeLink, path: Path | None = None
    ) -> None:
        self.address = address
        self._server: socket.socket | None = server
        self._make = make
        self._path = path

    def accept(self, timeout: float) -> Link | None:
        if self._server is None:
            raise TransportError(f"listening at {self.address}: closed")
        try:
            self._server.settimeout(timeout)
            connection, peer = self._server.accept()
        except OSError as error:
            if error.errno in EXHAUSTED | CLOSED:
                kind = ExhaustedError if error.errno in EXHAUSTED else TransportError
                raise kind(f"listening at {self.address}: {error.strerror}") from error
            return None
        name = _peer_name(peer) if isinstance(peer, tuple) else self.address
        try:
            return self._make(prepared(connection), name)
        except OSError:  # the peer has disconnected already
            connection.close()
            return None

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._path is not None:
                self._path.unlink(missing_ok=True)


def _peer_name(peer: tuple[Any, ...]) -> str:
    """Name an IP peer, with the zone of a link-local address, and IPv4 as such."""
    host = str(peer[0]).removeprefix("::ffff:") if "." in str(peer[0]) else str(peer[0])
    if len(peer) == 4 and peer[3]:
        with contextlib.suppress(OSError):
            host = f"{host.partition('%')[0]}%{socket.if_indextoname(peer[3])}"
    return format_tcp(host, peer[1])


def prepared(connection: socket.socket) -> socket.socket:
    """Set a socket to non-blocking, without delays, with keep-alive."""
    connection.setblocking(False)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "SO_NOSIGPIPE"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
    return connection


def listen_tcp(address: str, make: MakeLink) -> Listener:
    """Listen at HOST:PORT; port 0 picks a free port, host :: takes IPv4 connections too."""
    host, port = parse_tcp(address)
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, place = info[0][0], info[0][4]
        both = place[0] == "::" and socket.has_dualstack_ipv6()
        server = socket.create_server(
            place[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except OSError as error:
        raise TransportError(f"listening at {address}: {error.strerror}") from error
    return SocketListener(server, format_tcp(*server.getsockname()[:2]), make)


def connect_tcp(address: str, timeout: float, make: MakeLink) -> Link:
    """Connect to HOST:PORT; all addresses of the host are tried, within the timeout together."""
    host, port = parse_tcp(address)
    end = time.monotonic() + timeout
    error: OSError = TimeoutError()
    try:
        found = _resolved(host, port, timeout)
    except OSError as failed:
        raise _unreachable(address, failed, timeout) from failed
    for family, kind, protocol, _, place in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.001, end - time.monotonic()))
            connection.connect(place)
            return make(prepared(connection), address)
        except OSError as failed:
            connection.close()
            error = failed
        if time.monotonic() >= end:
            break
    raise _unreachable(address, error, timeout) from error


def _resolved(host: str, port: int, timeout: float) -> list[Any]:
    """Return what getaddrinfo does. A name server may be silent for longer than the timeout."""
    with contextlib.suppress(socket.gaierror):
        numeric = socket.AI_NUMERICHOST
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
    replies: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            replies.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            replies.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        reply = replies.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(reply, OSError):
        raise reply
    return reply


def listen_unix(address: str, make: MakeLink) -> Listener:
    """Listen at unix:/path; a stale socket file is replaced."""
    path = Path(parse_unix(address))
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        raise TransportError(f"listening at {address}: {error.strerror}") from error
    return SocketListener(server, f"unix:{path}", make, path)


def _remove_stale(path: Path) -> None:
    """Remove a socket file if nobody listens there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        if probe.connect_ex(str(path)) != 0:
            path.unlink()


def connect_unix(address: str, timeout: float, make: MakeLink) -> Link:
    path, end = parse_unix(address), time.monotonic() + timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            connection.settimeout(max(0.001, end - time.monotonic()))
            connection.connect(path)
            return make(prepared(connection), address)
        except OSError as error:
            # The listener's queue is full. Unlike TCP, a Unix socket does not wait.
            if isinstance(error, BlockingIOError) and time.monotonic() < end:
                time.sleep(0.01)
                continue
            connection.close()
            raise _unreachable(address, error, timeout) from error


def _unreachable(address: str, error: OSError, timeout: float) -> TransportError:
    if isinstance(error, TimeoutError):
        within = max(0.1, round(timeout, 1))
        return TransportTimeoutError(f"connecting to {address}: no reply within {within:g} s")
    return TransportError(f"connecting to {address}: {error.strerror or error}")
