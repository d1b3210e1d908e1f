"""How an answer travels: from the scheduler's thread to the client, as it comes or in one piece."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from dllama import Token
from dllama.server.answers import Form
from dllama.server.problems import ApiError
from dllama.server.scheduler import Done

Event = Token | Done | ApiError


class Delivery:
    """The events of one job; made in the event loop, filled from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Add an event; where the loop has ended there is nobody to tell."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Token | Done]:
        """Tokens, and a Done as the last; an ApiError is raised."""
        while True:
            event = await self._events.get()
            if isinstance(event, ApiError):
                raise event
            yield event
            if isinstance(event, Done):
                return


class Answer:
    """The response of a job (an ASGI application).

    cancel: called when the client hangs up, or when all is said. An ApiError before the first
    byte is raised; one that comes later ends the stream as an event.
    """

    def __init__(
        self, delivery: Delivery, form: Form, stream: bool, cancel: Callable[[], None]
    ) -> None:
        self._delivery = delivery
        self._form = form
        self._stream = stream
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_whole(scope, receive, send)
        finally:
            watch.cancel()
            self._cancel()

    async def _watch(self, receive: Receive) -> None:
        """Cancel the job when the client hangs up."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One JSON object."""
        tokens: list[Token] = []
        async for event in self._delivery.events():
            if isinstance(event, Token):
                tokens.append(event)
            elif event.reason != "cancelled":
                await JSONResponse(self._form.whole(tokens, event))(scope, receive, send)

    async def _send_stream(self, send: Send) -> None:
        """Server-sent events, from the first token on."""
        started = False
        try:
            async for event in self._delivery.events():
                if isinstance(event, Done) and event.reason == "cancelled":
                    return
                if not started:
                    started = True
                    await _start(send)
                    await _send_events(send, self._form.opening())
                if isinstance(event, Token):
                    await _send_events(send, self._form.piece(event))
                else:
                    await _send_events(send, [*self._form.closing(event), "[DONE]"])
        except ApiError as error:
            if not started:
                raise
            await _send_events(send, [error.as_json()])
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _start(send: Send) -> None:
    """The head of a stream; proxies are asked not to hold it back."""
    headers = {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
    }
    await send({"type": "http.response.start", "status": 200, "headers": list(headers.items())})


async def _send_events(send: Send, values: Sequence[dict[str, Any] | str]) -> None:
    """Values as events: JSON objects, and words as they are."""
    texts = [value if isinstance(value, str) else _json(value) for value in values]
    if texts:
        body = "".join(f"data: {text}\n\n" for text in texts).encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
