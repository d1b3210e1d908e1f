"""Whoever sits between two nodes and reads, alters or answers for them, on the wire."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from dllama import transports
from dllama.cluster.protocol import HELLO, PROOF_BYTES
from dllama.errors import DllamaError
from dllama.transports import tls

LIMIT = 10.0  # seconds for anything that works


def own_host() -> str:
    """Return an address of this machine that is not loopback; skip the test if it has none."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        contextlib.suppress(OSError),
    ):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        if not (host := probe.getsockname()[0]).startswith(("127.", "0.")):
            return host
    pytest.skip("this machine has no address but loopback")


@contextlib.contextmanager
def wire(host: str, name: str = "blocking"):
    """Yield both ends of a connection: the caller's and the listener's."""
    transport = transports.get(name)
    with transport.listen(f"{host}:0") as listener:
        near = transport.connect(listener.address, LIMIT)
        far = listener.accept(LIMIT)
        with near, far:
            near.timeout = far.timeout = LIMIT
            yield near, far


class Tap:
    """A proxy on the wire. It sees bytes, and knows nothing of what they mean.

    Args:
        target: address that it connects to.
        alter: alter(caller, before, data) returns what to pass on instead of data, which came after
            `before` bytes of the connection in the same direction; caller: from whoever connected.

    Attributes:
        address: where to connect instead.
        seen: all that passed.
    """

    def __init__(self, target: str, alter=lambda caller, before, data: data) -> None:
        host, port = target.rsplit(":", 1)
        self._target, self._alter = (host, int(port)), alter
        self._server = socket.create_server((host, 0))
        self._sockets, self._threads = [], []
        self.seen = bytearray()
        self.address = "{}:{}".format(*self._server.getsockname())
        self._start(self._serve)

    def _start(self, target, *arguments) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self._start(self._pump, near, far, True)
                self._start(self._pump, far, near, False)

    def _pump(self, source, sink, caller: bool) -> None:
        before = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                sink.sendall(self._alter(caller, before, data))
                before += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for one in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        for one in (self._server, *self._sockets):
            one.close()


class Impostor:
    """Passes Hellos on, and then is one end of TLS with each side.

    Attributes:
        address: where to connect instead.
        heard: what the caller said next, decrypted.
    """

    def __init__(self, target: str) -> None:
        self._target, self.heard = target, b""
        self._transport = transports.get("blocking")
        self._listener = self._transport.listen(f"{target.rsplit(':', 1)[0]}:0")
        self.address = self._listener.address
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        near = self._listener.accept(LIMIT)
        with near, self._transport.connect(self._target, LIMIT) as far:
            for source, sink in ((near, far), (far, near)):
                pass_on(source, sink, HELLO.size)
            tls.secure(near, caller=False)
            tls.secure(far, caller=True)
            with contextlib.suppress(DllamaError):
                self.heard = pass_on(near, far, PROOF_BYTES)
                pass_on(far, near, PROOF_BYTES)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        self._listener.close()


def pass_on(source, sink, size: int) -> bytes:
    data = bytearray(size)
    source.recv_into(data)
    sink.send(data)
    return bytes(data)
