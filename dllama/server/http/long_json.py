"""JSON of any length, which is made and sent while others are served.

While json.dumps encodes a value, no other thread runs. So a long one is encoded in small steps, and
in a thread: one at a time, since threads that compute take turns, and others wait for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

from anyio import to_thread
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

SHORT = 1 << 13  # values that take some milliseconds
STEP = 1 << 12  # parts of JSON, most of which are a name, a value or a sign


class LongJson:
    """A response with JSON, as an ASGI application.

    Args:
        values: about how many there are in the JSON.
        make: returns what is sent; called in a thread if there are many.
    """

    def __init__(self, values: int, make: Callable[[], Any]) -> None:
        self._long = values > SHORT
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        if not self._long:
            await JSONResponse(self._make())(scope, receive, send)
            return
        limiter = scope["app"].state.long_json
        pieces = await to_thread.run_sync(lambda: encoded(self._make()), limiter=limiter)
        length = b"%d" % sum(map(len, pieces))
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encoded(value: Any) -> list[bytes]:
    """Return JSON in pieces, as JSONResponse writes it."""
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    parts, pieces = encoder.iterencode(value), list[bytes]()
    while piece := "".join(islice(parts, STEP)):
        pieces.append(piece.encode())
    return pieces
