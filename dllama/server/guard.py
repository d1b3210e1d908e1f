"""Middleware that checks the API key and the host, and counts and logs every request."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dllama.server.errors import error_response
from dllama.server.metrics import Metrics
from dllama.server.problems import ApiError, shown

log = logging.getLogger("dllama.server")

# Open without a key: these reveal nothing, and the page itself asks for the key.
OPEN = ("/", "/health")


class Guard:
    """Passes authorized requests to an application; counts and logs all requests.

    Args:
        app: the application.
        key: API key, or None to accept all requests.
        local: whether the server listens on a loopback address. Without a key it then refuses hosts
            that do not name this machine. This stops DNS rebinding, where another site's page
            reaches the server under a name of its own.
        metrics: counts the requests.
        routes: those of the application; the metrics name their paths.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: bytes | None,
        local: bool,
        metrics: Metrics,
        routes: Sequence[Route],
    ) -> None:
        self._app = app
        self._routes = routes
        self._key = key
        self._local = local
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.monotonic(), 499  # the client disconnected before the response

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, receive, send_noting_status)
        except ApiError as error:
            response = error_response(scope["path"], error)
            await response(scope, receive, send_noting_status)
        finally:
            path = self._label(scope)
            self._metrics.requests.labels(path, str(status)).inc()
            level = logging.DEBUG if path in ("/health", "/metrics", "/cluster") else logging.INFO
            words = (scope["method"], ascii(scope["path"])[1:-1], status)
            log.log(level, "%s %s: %d in %.2f s", *words, time.monotonic() - begin)

    def _check(self, path: str, headers: Headers) -> None:
        """Raise ApiError 401 for a missing or wrong key, 403 for a foreign host."""
        if self._key is None:
            if self._local and not is_local(headers.get("host", "")):
                name = shown(headers.get("host", ""))
                message = f"host {name} is not this machine: give the server a key to allow it"
                raise ApiError(403, message, code="foreign_host")
        elif path not in OPEN and not self._has_key(headers):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _label(self, scope: Scope) -> str:
        """Return the path of the route of a request; "other" if there is none."""
        found = (one for one in self._routes if one.matches(scope)[0] is not Match.NONE)
        route = next(found, None)
        return "other" if route is None else route.path_format

    def _has_key(self, headers: Headers) -> bool:
        """Whether the key is right, compared in constant time."""
        assert self._key is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digests = [sha256(key).digest() for key in (given.strip().encode("latin-1"), self._key)]
        return hmac.compare_digest(*digests) and scheme.lower() == "bearer"


def is_local(host: str) -> bool:
    """Whether a Host header names this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
