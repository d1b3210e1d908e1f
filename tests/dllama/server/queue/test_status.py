"""Whether the server is there, whether it can answer, and what it waits for."""

from __future__ import annotations

import json
import threading

import pytest
from serving import LIMIT, GatedLLM, Server, http

from dllama.progress import Progress
from dllama.server.http.service import url_of
from dllama.server.queue.status import State, Status


def test_what_each_state_says():
    status = Status()
    status.report("loading", 0.437)
    assert status.as_json(details=False) == {
        "status": "loading", "reason": "the model is being loaded", "doing": "loading",
        "percent": 43,
    }  # fmt: skip
    status.state, status.lost, status.doing = State.LOST, "worker 1 (10.0.0.2:9999): gone", ""
    lost = {"status": "unavailable", "reason": "a worker of the cluster is lost, waiting for it"}
    assert status.as_json(details=False) == lost
    assert status.as_json(details=True) == {**lost, "lost": "worker 1 (10.0.0.2:9999): gone"}
    status.state = State.STOPPING
    assert status.as_json(True) == {"status": "stopping", "reason": "the server is stopping"}
    status.state = State.READY
    assert status.as_json(True) == {"status": "ok"}


@pytest.fixture(scope="module")
def loading():
    """A server whose model is being loaded until `go` is set; `at` is set in the middle of it."""
    at, go, server = threading.Event(), threading.Event(), Server(key=b"key")

    def report(doing, share):
        server.dispatcher.status.report(doing, share)
        if share >= 0.5:
            at.set()
            go.wait(LIMIT)

    server.dispatcher._open_model = lambda: GatedLLM(server.gate, progress=Progress(report=report))
    starting = threading.Thread(target=server.start)
    starting.start()
    assert at.wait(LIMIT)
    server.url = url_of(server._listener)
    yield server
    go.set()
    starting.join(LIMIT)
    assert http(f"{server.url}/ready")[::2] == (200, b'{"status":"ok"}')
    assert http(f"{server.url}/v1/models", **{"api-key": "key"})[0] == 200
    server.stop()


def test_while_the_model_is_loaded(loading):
    assert http(f"{loading.url}/live")[::2] == (200, b'{"status":"alive"}')
    for path in ("/ready", "/health"):
        status, headers, raw = http(loading.url + path)
        body = json.loads(raw)
        assert (status, headers["retry-after"], body["status"]) == (503, "2", "loading")
        assert (body["doing"], 50 <= body["percent"] < 100) == ("loading", True)
    assert http(f"{loading.url}/v1/models")[0] == 401
    for path, body in (("/v1/models", None), ("/v1/completions", {"prompt": "a"})):
        status, headers, raw = http(loading.url + path, body, **{"x-api-key": "key"})
        assert (status, headers["retry-after"]) == (503, "2")
        assert "the model is being loaded" in json.loads(raw)["error"]["message"]
