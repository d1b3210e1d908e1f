"""Delivers a response from the dispatcher's thread to the client, streamed or as a whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from dllama import Token
from dllama.server.jobs import Done, Place
from dllama.server.problems import ApiError
from dllama.server.responses import ResponseFormat

Event = Token | Done | Place | ApiError
QUIET = 10.0  # seconds without a token after which a stream says that it waits


class Delivery:
    """The events of one job. Create it in the event loop; any thread may fill it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Add an event. It is dropped if the event loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Token | Done | Place | None]:
        """Yield places in the queue, tokens and a Done; None when nothing came for a while.

        Raises:
            ApiError: the job failed.
        """
        while True:
            waiting = asyncio.ensure_future(self._events.get())
            try:
                while not (await asyncio.wait({waiting}, timeout=QUIET))[0]:
                    yield None
            finally:
                waiting.cancel()
            event = waiting.result()
            if isinstance(event, ApiError):
                raise event
            yield event
            if isinstance(event, Done):
                return


class JobResponse:
    """The response to a job, as an ASGI application.

    A stream begins at once, and tells again and again that it waits, so that neither the client nor
    a proxy gives up. So an ApiError ends it as an event; without a stream it is raised.

    Args:
        delivery: the events of the job.
        format: builds the JSON objects.
        stream: whether to stream them.
        cancel: called when the client disconnects, and at the end.
    """

    def __init__(
        self, delivery: Delivery, format: ResponseFormat, stream: bool, cancel: Callable[[], None]
    ) -> None:
        self._delivery = delivery
        self._format = format
        self._stream = stream
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
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
        """Cancel the job when the client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON object."""
        tokens: list[Token] = []
        async for event in self._delivery.events():
            if isinstance(event, Token):
                tokens.append(event)
            elif isinstance(event, Done) and event.reason != "cancelled":
                await JSONResponse(self._format.whole(tokens, event))(scope, receive, send)

    async def _send_stream(self, send: Send) -> None:
        """Send the objects as they come."""
        made = self._format
        await _start(send, made.media_type)
        await _send_text(send, made.waiting)
        started = False
        try:
            async for event in self._delivery.events():
                if event is None:
                    await _send_text(send, made.waiting)
                    continue
                if isinstance(event, Place):
                    await _send_text(send, made.place(event))
                    continue
                if isinstance(event, Done) and event.reason == "cancelled":
                    return
                if not started:
                    started = True
                    await self._send(send, made.opening())
                if isinstance(event, Token):
                    await self._send(send, made.piece(event))
                else:
                    await self._send(send, made.closing(event), made.end())
        except ApiError as error:
            await self._send(send, [made.error(error)])
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, values: Sequence[dict[str, Any]], end: str = "") -> None:
        """Send objects in their frames, and what comes after them."""
        await _send_text(send, "".join(map(self._format.frame, values)) + end)


async def _start(send: Send, media_type: str) -> None:
    """Send the headers of a stream, which ask proxies not to buffer it."""
    headers = {
        b"content-type": media_type.encode(),
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
    }
    await send({"type": "http.response.start", "status": 200, "headers": list(headers.items())})


async def _send_text(send: Send, text: str) -> None:
    """Send a part of the body, unless it is empty."""
    if text:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
