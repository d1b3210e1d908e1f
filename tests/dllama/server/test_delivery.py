"""Streams of responses, without a model."""

from __future__ import annotations

import asyncio
from itertools import count
from types import SimpleNamespace

from dllama import Token
from dllama.server import delivery
from dllama.server.queue.jobs import Done
from dllama.server.response_format import ResponseFormat


class Silent(ResponseFormat):
    """A format in which tokens say nothing."""

    def whole(self, tokens, done):
        raise NotImplementedError

    def opening(self):
        return [{"begin": 1}]

    def piece(self, token):
        return []

    def closing(self, done):
        return [{"end": 1}]


def test_a_stream_of_tokens_that_say_nothing_is_not_silent(monkeypatch):
    """So that clients do not give up, while a long call is not yet understood, for instance."""
    seconds = count(0, delivery.QUIET / 2.5)
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(delivery, "time", clock)
    sent = []

    async def send(message):
        sent.append(message.get("body", b"").decode())

    async def events():
        for event in [Token(1, "")] * 5 + [Done("stop")]:
            yield 0, event

    made = delivery.JobResponse(SimpleNamespace(events=events), [Silent()], True, list, list)
    asyncio.run(made._send_stream({}, send))
    waiting = ": waiting\n\n"
    assert sent == ["", waiting, 'data: {"begin":1}\n\n', waiting, 'data: {"end":1}\n\n', ""]
