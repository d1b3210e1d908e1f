"""The server as a process: model, HTTP and signals, from the first to the last moment."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from dllama.errors import TransportError
from dllama.server.scheduler import GRACE, Scheduler
from dllama.transports.sockets import format_tcp, parse_tcp

log = logging.getLogger("dllama.server")

FLUSH = 2  # seconds that answers have to reach their clients when all is generated
MAX_CONNECTIONS = 512


def bind(address: str) -> socket.socket:
    """A socket that will listen at HOST:PORT (port 0 takes a free one); clients are refused until
    it does. ConfigError, TransportError."""
    host, port = parse_tcp(address)
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        made = socket.socket(info[0][0], socket.SOCK_STREAM)
    except OSError as error:
        raise TransportError(f"listening at {address}: {error.strerror}") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(info[0][4])
    except OSError as error:
        made.close()
        raise TransportError(f"listening at {address}: {error.strerror}") from error
    return made


def url_of(listener: socket.socket) -> str:
    """Where a browser finds it."""
    return f"http://{format_tcp(*listener.getsockname()[:2])}"


class HttpServer:
    """Speaks HTTP in a thread of its own, with an application, until stop is called."""

    def __init__(self, app: ASGIApp, listener: socket.socket, failed: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(GRACE) + FLUSH,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name="http")

    def start(self) -> None:
        """Begin to listen."""
        self._listener.listen()
        self._thread.start()

    def leave(self) -> None:
        """Take no more connections, and end when the open ones have their answers."""
        self._server.should_exit = True

    def stop(self) -> None:
        """End, and wait for it."""
        self.leave()
        self._thread.join()

    def _run(self) -> None:
        """The thread."""
        try:
            self._server.run([self._listener])
        finally:
            self._failed()  # if it was not asked to end, there is nobody to answer for


def serve(
    scheduler: Scheduler, app: ASGIApp, listener: socket.socket, ready: Callable[[], None]
) -> None:
    """Answer requests until SIGINT or SIGTERM; the main thread must call it, the one that called
    scheduler.load.

    ready: called once clients can connect. The first signal lets the running answer end, within
    its time; a second one cuts it.
    """
    http = HttpServer(app, listener, scheduler.stop)

    def leave() -> None:
        http.leave()
        scheduler.stop()

    with _signals(leave, lambda: scheduler.opening):
        http.start()
        try:
            ready()
            with contextlib.suppress(KeyboardInterrupt):  # by handle
                scheduler.run()
        finally:
            http.stop()


@contextlib.contextmanager
def _signals(leave: Callable[[], None], opening: Callable[[], bool]) -> Iterator[None]:
    """Call leave in a thread of its own at SIGINT and SIGTERM.

    While the main thread opens the model, which may take long, it is interrupted instead.
    """

    def handle(number: int, frame: object) -> None:
        # Not here: what this interrupts may hold the lock that leave waits for.
        threading.Thread(target=leave, daemon=True).start()
        if opening():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
