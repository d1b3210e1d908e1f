"""Errors in the format that the clients of each API read."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

from dllama.server.problems import ApiError
from dllama.server.queue.exchange import Exchange

# Anthropic's error `type` for an HTTP status; all others are invalid_request_error.
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def error_response(scope: Scope, error: ApiError) -> JSONResponse:
    """Return the response that reports an error of a request, and note it for the log."""
    Exchange.of(scope).error = error
    found = (body for start, body in FORMATS.items() if scope["path"].startswith(start))
    body = next(found, ApiError.as_json)
    return JSONResponse(body(error), error.status, error.headers())


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """Return an error in Anthropic's format."""
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def ollama_error(error: ApiError) -> dict[str, Any]:
    """Return an error in Ollama's format."""
    return {"error": str(error)}


# By the beginnings of paths; all others have OpenAI's.
FORMATS = {"/v1/messages": anthropic_error, "/api/": ollama_error}
