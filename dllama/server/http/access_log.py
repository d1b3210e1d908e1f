"""Middleware that counts and logs every request."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllama.checks import one_line
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.metrics import Metrics

log = logging.getLogger("dllama.server")

# Programs ask for these every few seconds, and the page for its files.
PROBES = ("/live", "/ready", "/health", "/metrics", "/cluster", "/static/{name}")
MOST = 200  # characters of a path
MOST_REASON = 500  # characters of a reason
DISCONNECTED = 499  # the client did so before the response


class AccessLog:
    """Counts and logs requests to an application.

    Args:
        app: the application.
        metrics: counts the requests.
        routes: those of the application; the metrics name their paths.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Sequence[Route]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange, status = Exchange.of(scope), DISCONNECTED

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            path = self._label(scope)
            self._metrics.requests.labels(path, str(status)).inc()
            level = logging.DEBUG if path in PROBES else logging.INFO
            log.log(level, "%s", line(scope, status, exchange, time.monotonic()))

    def _label(self, scope: Scope) -> str:
        """Return the path of the route of a request; "other" if there is none."""
        found = (one for one in self._routes if one.matches(scope)[0] is not Match.NONE)
        route = next(found, None)
        return "other" if route is None else route.path_format


def line(scope: Scope, status: int, exchange: Exchange, now: float) -> str:
    """Return the line of a request: client, method, path, status, time, then costs or the reason.

    What the client sent is cut, and has no white space or control characters of its own.
    """
    client, *_ = scope.get("client") or ("-",)
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
    words = (str(client), scope["method"], path if len(path) <= MOST else f"{path[:MOST]}...")
    told = [f"{status} in {now - exchange.since:.2f} s", *exchange.costs]
    text = f"{' '.join(map(one_line, words))} {', '.join(told)}"
    if exchange.error is None:
        return text
    facts = {"field": exchange.error.param, "code": exchange.error.code}
    known = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
    reason = str(exchange.error)[:MOST_REASON]
    return text + one_line(f": {reason}" + (f" ({known})" if known else ""))
