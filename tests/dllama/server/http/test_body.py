"""How many values a body has, whatever its parts; and long requests take turns."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from dllama.server.http import threads
from dllama.server.http.body import Values
from dllama.server.http.threads import in_thread, turns
from dllama.server.problems import ApiError

VALUE = {"a": [1, 2, {}], "b\\": "[,{", 'c"': '\\"[,', "d": "\\\\", "e": []}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_are_counted(size):
    raw, values = json.dumps(VALUE).encode(), Values()
    for first in range(0, len(raw), size):
        values.add(raw[first : first + size])
    assert values.count == 10


def test_long_requests_take_turns_and_short_ones_do_not_wait(monkeypatch):
    monkeypatch.setattr(threads, "MOST_WAITING", 1)
    shut = threading.Event()

    async def run():
        app = SimpleNamespace(state=SimpleNamespace(turns=turns()))
        short, long = (
            SimpleNamespace(app=app, state=SimpleNamespace(length=length))
            for length in (threads.LONG, threads.LONG + 1)
        )
        first, second = (asyncio.create_task(in_thread(long, shut.wait)) for _ in range(2))
        await asyncio.sleep(0)
        assert await in_thread(short, abs, -1) == 1
        with pytest.raises(ApiError, match="1 long requests are waiting already"):
            await in_thread(long, abs, -1)
        shut.set()
        assert await first
        assert await second

    asyncio.run(run())
