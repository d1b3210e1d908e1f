"""The server process: model, HTTP and signals, from start to exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from dllama import LLM
from dllama.errors import TransportError
from dllama.server.http.connection import Connection, Lobby
from dllama.server.queue.dispatcher import GRACE, Dispatcher
from dllama.transports.sockets import format_tcp, parse_tcp

log = logging.getLogger("dllama.server")

FLUSH = 2  # seconds to send responses after the last token was generated
MAX_CONNECTIONS = 512


def bind(address: str) -> socket.socket:
    """Bind a socket to HOST:PORT without listening yet; port 0 picks a free port.

    Raises:
        ConfigError: the address is malformed.
        TransportError: the address cannot be used.
    """
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
    """Return the URL of a listening socket."""
    return f"http://{format_tcp(*listener.getsockname()[:2])}"


class HttpServer:
    """Runs an application in a thread of its own until `stop` is called.

    Args:
        app: the application.
        listener: a bound socket.
        failed: called when the thread ends.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, failed: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=cast(type[asyncio.Protocol], partial(Connection, Lobby())),
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
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Start listening."""
        self._listener.listen()
        self._thread.start()

    def leave(self) -> None:
        """Accept no more connections, and end when the open ones have their responses."""
        self._server.should_exit = True

    def stop(self) -> None:
        """Call `leave` and wait for the end, if a signal has not cut the start short."""
        self.leave()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._server.run([self._listener])
        finally:
            self._failed()  # if HTTP ends by itself, the dispatcher must end too


def serve(
    dispatcher: Dispatcher,
    app: ASGIApp,
    listener: socket.socket,
    prepare: Callable[[LLM], None],
    ready: Callable[[], None],
) -> None:
    """Load the model and serve requests until SIGINT, SIGTERM or SIGHUP.

    Clients can connect while the model is loaded. Call it from the main thread. Once requests are
    accepted, the first signal lets the running job finish in time; a second one interrupts it.

    Args:
        dispatcher: loads the model and runs the jobs.
        app: the application.
        listener: a bound socket.
        prepare: as for Dispatcher.load, whose errors pass through.
        ready: called once requests are accepted.

    Raises:
        KeyboardInterrupt: SIGINT came while the model was loaded. Other signals do then what they
            did before the call.
    """
    http = HttpServer(app, listener, dispatcher.stop)

    def leave() -> None:
        http.leave()
        dispatcher.stop()

    try:
        http.start()
        dispatcher.load(prepare)
        with _signals(leave, lambda: dispatcher.opening):
            ready()
            with contextlib.suppress(KeyboardInterrupt):  # raised by `handle`
                dispatcher.run()
    finally:
        http.stop()


@contextlib.contextmanager
def _signals(leave: Callable[[], None], opening: Callable[[], bool]) -> Iterator[None]:
    """Call `leave` in a thread of its own on SIGINT, SIGTERM, and SIGHUP unless nohup ignores it.

    While the main thread opens the model again, which may take long, also interrupt that.
    """

    def handle(number: int, frame: object) -> None:
        # Not in this thread: the code that the signal interrupts may hold the lock that `leave`
        # waits for.
        threading.Thread(target=leave, daemon=True).start()
        if opening():
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
