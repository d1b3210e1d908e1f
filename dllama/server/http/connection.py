"""Connections of clients, and how long they may be silent.

A connection waits until its next request is complete. The server keeps a limited number of those,
for a limited time, so that clients that send nothing keep nobody out. A client that does not read
its response loses its connection, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dllama.server.http.errors import error_response
from dllama.server.problems import ApiError
from dllama.transports.sockets import network_of

HEADER_SECONDS = 10.0  # for the headers of a request, and between two requests
STUCK_SECONDS = 30.0  # in which a client must read something
MAX_WAITING = 128


class Lobby:
    """The connections that wait for a request.

    If there are too many, the network address that has the most loses the one that waits longest.
    """

    def __init__(self) -> None:
        self._waiting: dict[Connection, None] = {}

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._waiting

    def enter(self, connection: Connection) -> None:
        """Add a connection; another one may have to go."""
        self._waiting[connection] = None
        if len(self._waiting) > MAX_WAITING:
            counts = Counter(one.network for one in self._waiting)
            greedy, _ = counts.most_common(1)[0]
            next(one for one in self._waiting if one.network == greedy).drop()

    def leave(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self._waiting.pop(connection, None)


class Connection(H11Protocol):
    """A connection of uvicorn with time limits.

    Args:
        lobby: where it waits, with all others of a server.
        **options: of uvicorn.

    Attributes:
        network: address of the client; of one in IPv6, the first half, since hosts choose the rest.
    """

    def __init__(self, lobby: Lobby, **options: Any) -> None:
        super().__init__(**options)
        self._lobby = lobby
        self._deadline: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self.network = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.network = network_of(self.client[0]) if self.client else ""
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def drop(self) -> None:
        """Close the connection at once."""
        self._leave()
        self.transport.abort()

    def _wait(self) -> None:
        """Begin to wait for a request, or go on, unless all of one is here."""
        begun = self.cycle is not None and not self.cycle.response_complete
        if self.transport.is_closing() or (begun and not self.cycle.more_body):
            self._leave()
            return
        if self not in self._lobby:
            self._lobby.enter(self)
        if begun:
            self._stop_clock()  # bodies have a time of their own
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.drop)

    def _leave(self) -> None:
        self._lobby.leave(self)
        self._stop_clock()

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class OneLength:
    """Refuses requests that state their length twice: a proxy may have taken the other one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            message = "the request has both Transfer-Encoding and Content-Length"
            response = error_response(scope, ApiError(400, message))
            response.headers["connection"] = "close"
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)
