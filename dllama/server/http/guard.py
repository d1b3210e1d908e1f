"""Middleware that checks the API key and the host of every request."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dllama.server.http.errors import error_response
from dllama.server.problems import ApiError, shown

# Open without a key: these reveal nothing, and the page itself asks for the key.
OPEN = ("/", "/live", "/ready", "/health")
# Where Anthropic's and Azure's clients have the key; others send "authorization: Bearer KEY".
KEY_HEADERS = ("x-api-key", "api-key")


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Args:
        key: API key, or None to accept all requests.
        local: whether the server listens on a loopback address. Without a key it then refuses hosts
            that do not name this machine. This stops DNS rebinding, where another site's page
            reaches the server under a name of its own.
        origins: of web pages that may use it from a browser (CORS); "*" means all.
    """

    key: bytes | None = None
    local: bool = True
    origins: tuple[str, ...] = ()

    def has_key(self, headers: Headers) -> bool:
        """Whether a request has the right key, or needs none. Compared in constant time."""
        if self.key is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get(name, "") for name in KEY_HEADERS]
        given += [bearer.strip()] if scheme.lower() == "bearer" else []
        right = sha256(self.key).digest()
        found = [sha256(one.encode("latin-1")).digest() for one in given]
        return sum(hmac.compare_digest(one, right) for one in found) > 0

    def check(self, path: str, headers: Headers) -> None:
        """Raise ApiError 401 for a missing or wrong key, 403 for a foreign host."""
        if self.key is None and self.local and not is_local(headers.get("host", "")):
            name = shown(headers.get("host", ""))
            message = f"host {name} is not this machine: give the server a key to allow it"
            raise ApiError(403, message, code="foreign_host")
        if not is_open(path) and not self.has_key(headers):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


class Guard:
    """Passes requests to an application that may use it.

    Args:
        app: the application.
        access: who may.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                self._access.check(scope["path"], Headers(scope=scope))
            except ApiError as error:
                await error_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN or path.startswith("/static/")


def is_local(host: str) -> bool:
    """Whether a Host header names this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
