"""Delivers a response from the dispatcher's thread to the client, streamed or as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from dllama import Token
from dllama.server.http.long_json import LongJson
from dllama.server.problems import ApiError
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Done, Place
from dllama.server.response_format import ResponseFormat

Event = Token | Done | Place | ApiError
QUIET = 10.0  # seconds without a piece after which a stream says that it waits
AT_ONCE = 256  # events of a request that are handled before others have their turn


class Text(NamedTuple):
    """What a job has generated."""

    tokens: list[Token]
    done: Done


class Delivery:
    """The events of the jobs of a request. Create it in the event loop; any thread may fill it.

    The loop is woken once for all events that it has not seen yet: a pass over a prompt can bring
    thousands.

    Args:
        jobs: how many there are.
    """

    def __init__(self, jobs: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._arrived = asyncio.Event()
        self._told = False  # whether `_arrived` is set or will be
        self._left = jobs

    def put(self, job: int, event: Event) -> None:
        """Add an event of a job. It is dropped if the event loop has ended."""
        self._events.append((job, event))
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def events(self) -> AsyncIterator[tuple[int, Token | Done | Place] | None]:
        """Yield events with the numbers of their jobs, until all of these are done.

        None stands for a while in which nothing came.

        Raises:
            ApiError: a job failed.
        """
        while self._left:
            if not self._events and not await self._some():
                yield None
            for _ in range(min(len(self._events), AT_ONCE)):
                job, event = self._events.popleft()
                if isinstance(event, ApiError):
                    raise event
                self._left -= isinstance(event, Done)
                yield job, event
            await asyncio.sleep(0)  # other requests have their turn

    async def _some(self) -> bool:
        """Wait until something may have arrived; False: nothing has for a while."""
        try:
            await asyncio.wait_for(self._arrived.wait(), QUIET)
        except asyncio.TimeoutError:
            return False
        self._arrived.clear()
        self._told = False  # before events are looked at: what comes after that is told again
        return True


class UnwantedError(Exception):
    """Nobody wants the response any more."""


class PendingResponse(ABC):
    """The response to a request whose jobs are queued, as an ASGI application.

    Args:
        delivery: the events of the jobs.
        cancel: called when the client disconnects, and at the end.
    """

    def __init__(self, delivery: Delivery, cancel: Callable[[], None]) -> None:
        self._delivery = delivery
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            with contextlib.suppress(UnwantedError):
                await self._respond(scope, receive, send)
        finally:
            watch.cancel()
            self._cancel()

    @abstractmethod
    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; UnwantedError if a job was cancelled."""

    async def _watch(self, receive: Receive) -> None:
        """Cancel the jobs when the client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()

    async def _events(self) -> AsyncIterator[tuple[int, Token | Done | Place] | None]:
        """Yield the events; UnwantedError if a job was cancelled."""
        async for event in self._delivery.events():
            if event and isinstance(event[1], Done) and event[1].reason == "cancelled":
                raise UnwantedError
            yield event


class JobResponse(PendingResponse):
    """The response to a request for texts.

    A stream begins at once, and tells again and again that it waits, so that neither the client nor
    a proxy gives up. So an ApiError ends it as an event; without a stream it is raised.

    Args:
        delivery, cancel: as in PendingResponse.
        formats: of the texts that are returned. In a stream, text i is that of job i.
        stream: whether to stream them.
        choose: picks the texts to return from those of all jobs; in a stream all are returned.
    """

    def __init__(
        self,
        delivery: Delivery,
        formats: Sequence[ResponseFormat],
        stream: bool,
        cancel: Callable[[], None],
        choose: Callable[[Sequence[Text]], Sequence[Text]],
    ) -> None:
        super().__init__(delivery, cancel)
        self._formats = formats
        self._stream = stream
        self._choose = choose

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._stream:
            await self._send_stream(scope, send)
        else:
            await self._send_whole(scope, receive, send)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one JSON object."""
        tokens: dict[int, list[Token]] = {}
        ends: dict[int, Done] = {}
        async for event in self._events():
            if event is None:
                continue
            job, one = event
            if isinstance(one, Done):
                ends[job] = one
            elif isinstance(one, Token):
                tokens.setdefault(job, []).append(one)
        texts = [Text(tokens.pop(job, []), ends[job]) for job in sorted(ends)]
        values = sum(3 + len(text.tokens) for text in texts)
        values += sum(len(token.top) for text in texts for token in text.tokens)
        await LongJson(values, partial(self._body, texts))(scope, receive, send)

    def _body(self, texts: Sequence[Text]) -> dict[str, Any]:
        """Return the JSON of all texts."""
        chosen = zip(self._formats, self._choose(texts), strict=True)
        parts = [format.whole(text.tokens, text.done) for format, text in chosen]
        return self._formats[0].merged(parts, [text.done for text in texts])

    async def _send_stream(self, scope: Scope, send: Send) -> None:
        """Send the objects as they come."""
        first, body = self._formats[0], StreamBody(send)
        await body.begin(first.media_type)
        await body.add(first.wait())
        begun: set[int] = set()
        ends: dict[int, Done] = {}
        try:
            async for event in self._events():
                if event is not None:
                    job, one = event
                    await body.add(self._said(job, one, job in begun))
                    if not isinstance(one, Place):
                        begun.add(job)
                    if isinstance(one, Done):
                        ends[job] = one
                if event is None or body.quiet:
                    await body.add(first.wait())
            last = first.summary([ends[job] for job in sorted(ends)])
            await body.add("".join(map(first.frame, last)) + first.end())
        except ApiError as error:
            Exchange.of(scope).error = error
            await body.add(first.frame(first.error(error)))
        await body.end()

    def _said(self, job: int, event: Token | Done | Place, begun: bool) -> str:
        """Return what a stream says of an event of a job.

        Args:
            job, event: the job and its event.
            begun: whether the job has had a token, or is done.
        """
        format = self._formats[job]
        if isinstance(event, Place):
            return format.place(event)
        values = [] if begun else format.opening()
        more = format.closing(event) if isinstance(event, Done) else format.piece(event)
        return "".join(map(format.frame, [*values, *more]))


class StreamBody:
    """The body of a response that is sent in pieces.

    Args:
        send: as in ASGI.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._last = time.monotonic()

    @property
    def quiet(self) -> bool:
        """Whether nothing was sent for a while."""
        return time.monotonic() > self._last + QUIET

    async def begin(self, media_type: str) -> None:
        """Send the headers, which ask proxies not to buffer."""
        headers = {
            b"content-type": media_type.encode(),
            b"cache-control": b"no-store",
            b"x-accel-buffering": b"no",
        }
        start = {"type": "http.response.start", "status": 200}
        await self._send({**start, "headers": list(headers.items())})

    async def add(self, text: str) -> None:
        """Send a piece, unless it is empty."""
        if text:
            self._last = time.monotonic()
            await self._put(text, more=True)

    async def end(self) -> None:
        """Send the end."""
        await self._put("", more=False)

    async def _put(self, text: str, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": more})
