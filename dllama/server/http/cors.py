"""Which web pages of other origins may use the server from a browser."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from dllama.server.http.errors import error_response
from dllama.server.http.guard import Access
from dllama.server.problems import ApiError, shown


def cors(access: Access) -> list[Middleware]:
    """Return what tells browsers that pages of other origins may use the server.

    It comes before the guard: a preflight has no key, and pages may see why they are refused.
    """
    if not access.origins:
        return []
    cors = Middleware(
        Cors,
        allow_origins=access.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["retry-after"],
        allow_private_network=True,
    )
    return [cors]


class Cors(CORSMiddleware):
    """Refuses a preflight of another origin with a reason, which the log has, too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        origin = headers.get("origin")
        preflight = scope.get("method") == "OPTIONS" and "access-control-request-method" in headers
        if origin is not None and preflight and not self.is_allowed_origin(origin):
            message = f"origin {shown(origin)} is none of --cors-origins"
            error = ApiError(403, message, code="foreign_origin")
            await error_response(scope, error)(scope, receive, send)
            return
        await super().__call__(scope, receive, send)
