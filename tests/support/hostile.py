"""A worker in this process, and a proxy that changes what a root and a worker send each other."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time

import numpy as np
import pytest

import dllama
from dllama import transports
from dllama.cluster import protocol, worker
from dllama.cluster.protocol import HEADER, HELLO, Kind

IDS = [5, 9, 17, 300, 41, 2]
TIMEOUT = 0.6  # for sessions in which a node may wait in vain
GRACE = 1.0  # seconds that both sides have to disconnect
CALM = 5.0  # for sessions in which every reply comes at once
SOON = 2.5  # seconds that a busy machine may add to any time limit
HUGE = (1 << 32) - 1
LITTLE = 32 << 20  # bytes: less than any huge message, more than a session needs
OPTIONS = {"threads": 1, "timeout": TIMEOUT, "buffer": "f32", "max_seq_len": 64}
GREETING = HELLO.pack(protocol.MAGIC, protocol.VERSION, 0, bytes(16))
ROOT, WORKER = "root", "worker"


def frame(kind: int, content: bytes | dict | list, length: int | None = None) -> bytes:
    """Build a message; `length` is what its header claims, if not the truth."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEADER.pack(kind, len(raw) if length is None else length) + raw


class Served:
    """A worker in this process, at a host; the options are those of Worker."""

    def __init__(self, caplog, host: str = "127.0.0.1", **options) -> None:
        self._caplog = caplog
        self._listener = transports.get("blocking").listen(f"{host}:0")
        self._worker = worker.Worker(self._listener, 1, **options)
        self._thread = threading.Thread(target=self._worker.serve)
        self._thread.start()
        self.address = self._listener.address

    def stop(self) -> None:
        self._worker.stop()
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def complaints(self, count: int = 1, seconds: float = TIMEOUT + SOON) -> list[str]:
        """Wait for this many warnings or errors and return all; none may have a traceback."""
        end = time.monotonic() + seconds
        while len(found := self._found()) < count and time.monotonic() < end:
            time.sleep(0.005)
        assert all(record.exc_info is None for record in found), found
        return [record.getMessage() for record in found]

    def is_free(self, seconds: float = TIMEOUT + SOON) -> None:
        """Wait until it serves no root, and has told what it has to about all who came."""
        end = time.monotonic() + seconds
        while self._worker._busy.locked() or self._worker._lobby._since:
            assert time.monotonic() < end
            time.sleep(0.005)

    def _found(self) -> list[logging.LogRecord]:
        return [r for r in self._caplog.records if r.levelno >= logging.WARNING]

    def check(self, expected, seconds: float = TIMEOUT + SOON) -> None:
        """Check that it serves a root correctly, once it has noticed the end of another one."""
        with root_of(self.address, seconds) as llm:
            error = np.abs(llm.eval(IDS) - expected).max()
        assert error < 0.05 * expected.std()

    def hear(self, data: bytes, stay: bool = False) -> bytes:
        """Send data, and return everything that the worker sends until it disconnects.

        Unless we stay, the worker sees us leave.
        """
        host, port = self.address.split(":")
        said = b""
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((host, int(port)), timeout=10) as connection,
        ):
            connection.sendall(data)
            if not stay:
                with contextlib.suppress(OSError):  # it may have disconnected already
                    connection.shutdown(socket.SHUT_WR)
            while got := connection.recv(1 << 16):
                said += got
        return said


def root_of(address: str, seconds: float = TIMEOUT + SOON, **options) -> dllama.LLM:
    """Connect a root, waiting until the worker has noticed the end of another one."""
    end = time.monotonic() + seconds
    while True:
        try:
            return dllama.LLM(workers=[address], **{**OPTIONS, "timeout": 5.0, **options})
        except dllama.ProtocolError as refusal:
            if "serves another root" not in str(refusal) or time.monotonic() > end:
                raise
            time.sleep(0.005)


class Between:
    """A proxy between a root and a worker.

    Args:
        target: address of the worker.
        change: change(sender, kind, content) returns the bytes to send instead of a message, a Cut,
            or None to leave it unchanged. The kind is "hello", that of a message, or "data" for
            what nodes exchange during a pass.
    """

    def __init__(self, target: str, change) -> None:
        self._target = target
        self._change = change
        self._lock = threading.Lock()
        self._sockets, self._threads = [], []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._server.getsockname())
        self._start(self._serve)

    def _start(self, target, *arguments) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _serve(self) -> None:
        host, port = self._target.split(":")
        with contextlib.suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection((host, int(port)))
                self._sockets += [near, far]
                raw = threading.Event()
                self._start(self._pump, near, far, ROOT, raw)
                self._start(self._pump, far, near, WORKER, raw)

    def _pump(self, source, sink, sender: str, raw: threading.Event) -> None:
        try:
            self._pass(sink, sender, "hello", read(source, HELLO.size))
            last = False
            while not last:
                kind, length = HEADER.unpack(read(source, HEADER.size))
                content = read(source, length)
                if kind == Kind.PEER:
                    raw.set()
                last = raw.is_set()  # a data link has only PEER and its reply
                self._pass(sink, sender, kind, content)
            while data := source.recv(1 << 16):
                self._pass(sink, sender, "data", data)
            raise EOFError
        except EOFError:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _pass(self, sink, sender: str, kind, content: bytes) -> None:
        true = content if isinstance(kind, str) else frame(kind, content)
        with self._lock:
            changed = self._change(sender, kind, content)
        if isinstance(changed, Cut):
            sink.sendall(true[: changed.at])
            for end in self._sockets:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            raise ConnectionError("cut")
        sink.sendall(true if changed is None else changed)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        latest = time.monotonic() + GRACE  # to pass on the last messages
        for thread in self._threads:
            thread.join(max(0, latest - time.monotonic()))
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for end in self._sockets:
            end.close()


class Cut:
    """Close both connections after some bytes of a message."""

    def __init__(self, at: int) -> None:
        self.at = at


@contextlib.contextmanager
def stranger(greeting: bytes | None):
    """Yield the address of a listener that sends some bytes to everybody; None: nothing."""
    taken = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])
                taken[-1].sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        if greeting is not None:
            thread.start()
        try:
            yield "{}:{}".format(*server.getsockname())
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            if greeting is not None:
                thread.join(5)
            for connection in taken:
                connection.close()


def connect(address: str) -> socket.socket:
    """Connect to a worker without a secret, and exchange Hellos."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(GREETING)
    read(connection, HELLO.size)
    return connection


def read(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        got = source.recv(count - len(data))
        if not got:
            raise EOFError
        data += got
    return data


def instead(sender: str, kind, replacement, skip: int = 0):
    """Return a `change` for Between that replaces one message of a kind, after skipping some."""
    seen = iter(range(1 << 30))

    def change(who, what, content):
        if who == sender and what == kind and next(seen) == skip:
            return replacement
        return None

    return change


def talk(address: str, **options) -> None:
    """Do everything that a root ever asks of a worker."""
    sampling = {"temperature": 0.8, "top_k": 5, "repetition_penalty": 1.1, "seed": 3}
    with root_of(address, **{"timeout": TIMEOUT, **options}) as llm:
        llm.eval(IDS)
        for _ in llm.generate(IDS, 3, **sampling, ignore_eos=True):
            pass
        for _ in llm.generate([1], 2, temperature=0.8, seed=3, ignore_eos=True):
            pass


def root_error(served: Served, change, timeout: float = TIMEOUT) -> str:
    """Return the error that a change causes in a root; it must name the worker and come in time."""
    with Between(served.address, change) as between:
        begin = time.monotonic()
        with pytest.raises(dllama.DllamaError) as error:
            talk(between.address, timeout=timeout)
        assert time.monotonic() - begin < 2 * timeout + SOON
        assert f"worker 1 ({between.address})" in str(error.value)
        assert "\n" not in str(error.value)
    return str(error.value)
