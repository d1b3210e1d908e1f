"""Streams of responses, without a model."""

from __future__ import annotations

import asyncio
import threading
from itertools import count, pairwise
from types import SimpleNamespace

from serving import LIMIT

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


def test_events_of_another_thread_come_all_and_in_order():
    most = 20_000

    async def receive():
        made = delivery.Delivery(2)

        def fill():
            for number in range(most):
                made.put(number % 2, Token(number, ""))
            made.put(0, Done("stop"))
            made.put(1, Done("length"))

        thread = threading.Thread(target=fill)
        thread.start()
        events = [event async for event in made.events()]
        thread.join()
        return events

    events = asyncio.run(asyncio.wait_for(receive(), LIMIT))
    numbers = [event.id for _, event in events[:-2]]
    assert numbers == [*range(most)]
    assert [job for job, _ in events] == [0, 1] * (most // 2) + [0, 1]
    assert [event.reason for _, event in events[-2:]] == ["stop", "length"]


def test_many_events_do_not_keep_other_requests_waiting():
    turns = []

    async def receive():
        made = delivery.Delivery()
        for number in range(4 * delivery.AT_ONCE):
            made.put(0, Token(number, ""))
        made.put(0, Done("stop"))
        other = asyncio.ensure_future(take_turns())
        taken = 0
        async for _ in made.events():
            taken += 1
            turns.append(taken)
        other.cancel()

    async def take_turns():
        while True:
            turns.append("other")
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(receive(), LIMIT))
    gaps = [index for index, turn in enumerate(turns) if turn == "other"]
    assert len(gaps) >= 4
    assert max(b - a for a, b in pairwise(gaps)) <= delivery.AT_ONCE + 1
