"""JSON that is made and sent in pieces."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from dllama.server.http import long_json
from dllama.server.http.long_json import LongJson
from dllama.server.http.threads import turns

VALUE = {"a": ["ä", 1.5, None, {"b": [True, "\u2028"]}] * 3, "c": {}}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_it_is_the_same_in_pieces(monkeypatch, size):
    monkeypatch.setattr(long_json, "STEP", size)
    app = SimpleNamespace(state=SimpleNamespace(long_json=turns()))
    asked = ({"type": "http", "app": app}, asyncio.Event().wait)
    sent = {values: [] for values in (long_json.SHORT, long_json.SHORT + 1)}
    made_in = []

    def make():
        made_in.append(threading.current_thread())
        return VALUE

    async def run():
        for values, messages in sent.items():

            async def send(message, messages=messages):
                messages.append(message)

            await LongJson(values, make)(*asked, send)

    asyncio.run(run())
    (start, *bodies), (long_start, *pieces) = sent.values()
    assert {**start, "headers": None} == {**long_start, "headers": None}
    assert sorted(start["headers"]) == sorted(long_start["headers"])
    whole = b"".join(one["body"] for one in bodies)
    assert b"".join(one["body"] for one in pieces) == whole
    assert json.loads(whole) == VALUE
    assert len(pieces) > 30 // size
    here = threading.current_thread()
    assert [one is here for one in made_in] == [True, False]
