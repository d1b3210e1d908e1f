"""Middleware that counts and logs every request."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllama.server.metrics import Metrics

log = logging.getLogger("dllama.server")

# Programs ask for these every few seconds.
PROBES = ("/live", "/ready", "/health", "/metrics", "/cluster")
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
        begin, status = time.monotonic(), DISCONNECTED

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
            words = (scope["method"], ascii(scope["path"])[1:-1], status)
            log.log(level, "%s %s: %d in %.2f s", *words, time.monotonic() - begin)

    def _label(self, scope: Scope) -> str:
        """Return the path of the route of a request; "other" if there is none."""
        found = (one for one in self._routes if one.matches(scope)[0] is not Match.NONE)
        route = next(found, None)
        return "other" if route is None else route.path_format
