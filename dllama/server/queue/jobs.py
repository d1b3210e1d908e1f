"""Requests on their way through the server: jobs, their texts and their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama import Token
from dllama.scheduling.generation import Generation
from dllama.server.problems import ApiError
from dllama.server.queue.exchange import Exchange


@dataclass(frozen=True)
class Done:
    """The end of a job.

    Attributes:
        reason: "stop", "length", or "cancelled" if nobody wants the result any more.
        cached: prompt tokens that did not have to be evaluated again.
        generated: generated tokens, including an EOS.
        prompt: tokens of the prompt.
        vector: the embedding, float32 (dim,), if that was asked for.
    """

    reason: str
    cached: int = 0
    generated: int = 0
    prompt: int = 0
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Place:
    """The place of a job in the queue.

    Attributes:
        before: how many requests come before it; None when its turn has come.
    """

    before: int | None


@dataclass(eq=False)
class Job:
    """A text that a request asks for.

    Attributes:
        prompt: token ids.
        max_tokens: maximum number of tokens to generate.
        deliver: called in the dispatcher's thread with every token and finally with a Done or an
            ApiError. It must not block.
        options: arguments of LLM.submit.
        client: identifies the client.
        request: of which it is one text.
        moved: called by any thread with each new place in the queue. It must not block.
        place: the last one.
        cancelled: set by Dispatcher.cancel.
        since: when the job was created (time.monotonic).
        pooling: how to embed the prompt, instead of generating; "" to generate.
    """

    prompt: Sequence[int]
    max_tokens: int
    deliver: Callable[[Token | Done | ApiError], None]
    options: dict[str, Any] = field(default_factory=dict)
    client: str = ""
    request: Exchange = field(default_factory=Exchange)
    moved: Callable[[Place], None] = lambda place: None
    place: Place | None = None
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)
    pooling: str = ""

    def move(self, before: int | None) -> None:
        """Note a place in the queue, and tell if it is a new one."""
        place = Place(before)
        if place != self.place:
            self.place = place
            self.moved(place)


@dataclass(eq=False)
class Work:
    """A job and its text.

    Attributes:
        job: the job.
        text: what is generated.
        begun: when its turn came (time.monotonic).
        last: when it last got a token.
        counted: whether its prompt is in the metrics.
    """

    job: Job
    text: Generation
    begun: float
    last: float
    counted: bool = False
