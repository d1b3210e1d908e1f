"""Request bodies: JSON of limited size that must arrive in limited time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from dllama.server.problems import ApiError, shown

MAX_BODY = 4 << 20  # bytes
MOST_READ = 16 * MAX_BODY
BODY_SECONDS = 30.0


async def read_json(request: Request) -> Any:
    """Read and parse the body of a request.

    Raises:
        ApiError: 415 if the body is not declared as JSON (which also stops pages of other sites
            from sending one through a browser), 413 if it is too long, 408 if it takes too long to
            arrive, 400 if it is not JSON.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        message = f"content-type is {shown(kind)}, expected 'application/json'"
        raise ApiError(415, message)
    try:
        raw = await asyncio.wait_for(_read(request), BODY_SECONDS)
    except (asyncio.TimeoutError, ClientDisconnect):
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    try:
        return json.loads(raw, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {why}", code="invalid_json") from None


async def _read(request: Request) -> bytes:
    """Read all bytes, or raise ApiError 413.

    It keeps reading for a while after the limit: a client whose connection closes while it still
    sends does not see the response.
    """
    body, count = bytearray(), 0
    async for part in request.stream():
        count += len(part)
        if count <= MAX_BODY:
            body += part
        elif count > MOST_READ:
            break
    if count > MAX_BODY:
        raise ApiError(413, f"the body is longer than {MAX_BODY} bytes", code="body_too_long")
    return bytes(body)


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
