"""Requests for embeddings, whatever their API, and how a response with them is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from dllama.checks import is_integer
from dllama.server.delivery import Delivery, PendingResponse
from dllama.server.fields.json_object import Fields, is_ids, required, wrong
from dllama.server.queue.jobs import Done

MAX_INPUTS = 2048  # as in OpenAI's API


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request for the embeddings of texts.

    Attributes:
        model: None means any model.
        texts: texts or token ids.
        pooling: how they are embedded.
        truncate: whether to leave out the end of a text that is longer than the context.
    """

    model: str | None
    texts: list[str | list[int]]
    pooling: str
    truncate: bool = False


def parse_input(value: object) -> list[str | list[int]]:
    """Parse the field `input`: a text, ids, or a list of them; ApiError 400."""
    if value is None:
        raise required("input")
    one = isinstance(value, str) or (isinstance(value, list) and value and is_integer(value[0]))
    texts = [value] if one else value
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_INPUTS:
        raise wrong("input", value, f"a text, token ids, or a list of 1 to {MAX_INPUTS} of them")
    for index, text in enumerate(texts):
        if not text or not (isinstance(text, str) or is_ids(text)):
            name = "input" if one else f"input[{index}]"
            raise wrong(name, text, "a text or token ids, not empty")
    return texts


def check_width(fields: Fields, width: int) -> None:
    """Take the field `dimensions`; ApiError 400 unless vectors have so many numbers anyway."""
    fields.only("dimensions", [width], f": vectors of this model have {width} numbers")


# Yields the parts of a body from the ends of all jobs, in the order of the texts.
Pieces = Callable[[Sequence[Done]], Iterator[str]]


class VectorResponse(PendingResponse):
    """The response to a request for embeddings. It is sent in parts: all at once would take long.

    Args:
        delivery, cancel: as in PendingResponse.
        pieces: makes the body.
    """

    def __init__(self, delivery: Delivery, cancel: Callable[[], None], pieces: Pieces) -> None:
        super().__init__(delivery, cancel)
        self._pieces = pieces

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        ends: dict[int, Done] = {}
        async for event in self._events():
            if event and isinstance(event[1], Done):
                ends[event[0]] = event[1]
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self._pieces([ends[job] for job in sorted(ends)]):
            body = {"type": "http.response.body", "body": piece.encode(), "more_body": True}
            await send(body)
            await asyncio.sleep(0)  # others go on
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def numbers(done: Done) -> NDArray[np.float32]:
    """Return the embedding that a job has made."""
    assert done.vector is not None
    return done.vector


def as_json(vector: NDArray[np.float32]) -> str:
    """Return a list of numbers, each with as few digits as name it."""
    return f"[{','.join(map(str, vector))}]"
