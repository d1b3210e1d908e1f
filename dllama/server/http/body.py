"""Request bodies: JSON of limited size that must arrive in limited time.

While JSON is parsed, no other thread runs. The number of values is limited too, because they take
more time than long texts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from dllama.json_file import check_unicode
from dllama.server.http.threads import LONG, in_thread
from dllama.server.problems import ApiError, shown

MAX_BODY = 4 << 20  # bytes
MAX_VALUES = 1 << 17
MOST_READ = 16 * MAX_BODY
BODY_SECONDS = 30.0
BROWSER = ("origin", "sec-fetch-site")  # headers of all requests with bodies from browsers
T = TypeVar("T")


async def read_json(request: Request, parse: Callable[[Any], T]) -> T:
    """Read the body of a request, and return what `parse` makes of its JSON.

    Raises:
        ApiError: 415 if a browser sends a body that is not declared as JSON, 413 if it is too long,
            408 if it takes too long to arrive, 400 if it is not JSON.
    """
    _check_type(request)
    try:
        raw = await asyncio.wait_for(_read(request), BODY_SECONDS)
    except (asyncio.TimeoutError, ClientDisconnect):
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
    request.state.length = len(raw)
    if len(raw) <= LONG:
        return parse(_parsed(raw))
    return await in_thread(request, lambda: parse(_parsed(raw)))


def _check_type(request: Request) -> None:
    """Raise ApiError 415 if a page of any site could have sent this request.

    Browsers ask no server before they send bodies of some types, but they name the page's origin.
    Other programs, such as curl, do not, and some declare no type, or none that fits.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() == "application/json":
        return
    if any(name in request.headers for name in BROWSER):
        raise ApiError(415, f"content-type is {shown(kind)}, expected 'application/json'")


def _parsed(raw: bytes) -> Any:
    try:
        value = json.loads(raw, parse_constant=_not_json)
        check_unicode(value, raw)
        return value
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {why}", code="invalid_json") from None


async def _read(request: Request) -> bytes:
    """Read all bytes, or raise ApiError 413.

    It keeps reading for a while after the limit: a client whose connection closes while it still
    sends does not see the response.
    """
    body, count, values = bytearray(), 0, Values()
    async for part in request.stream():
        count += len(part)
        if count <= MAX_BODY and values.count <= MAX_VALUES:
            values.add(part)
            body += part
        elif count > MOST_READ:
            break
    if count > MAX_BODY:
        raise ApiError(413, f"the body is longer than {MAX_BODY} bytes", code="body_too_long")
    if values.count > MAX_VALUES:
        raise ApiError(413, f"the body has more than {MAX_VALUES} values", code="body_too_long")
    return bytes(body)


class Values:
    """Counts the values of JSON that comes in parts: commas and opening brackets outside strings.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._inside = False  # a string
        self._escape = b""  # a backslash whose character comes with the next part

    def add(self, part: bytes) -> None:
        """Count those of a part."""
        part = self._escape + part
        self._escape = part[-1:] * ((len(part) - len(part.rstrip(b"\\"))) % 2)
        part = part[: len(part) - len(self._escape)]
        runs = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(runs[self._inside :: 2])
        self._inside ^= len(runs) % 2 == 0
        self.count += sum(map(outside.count, (b",", b"[", b"{")))


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
