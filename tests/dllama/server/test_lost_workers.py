"""A server whose worker dies: status 503 until it is back, then it works again."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import openai
import pytest
from serving import LIMIT, connect, http, serving, wait_until

from dllama.server.queue import dispatcher as dispatcher_module

PROMPT = "MACBETH:\n"

pytestmark = pytest.mark.slow


class Worker:
    """`dllama worker`, which may die and come back at the same address."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "DLLAMA_SECRET": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dllama", "worker", "--listen", self.address, "--threads", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        assert select.select([self._process.stdout], [], [], LIMIT)[0]
        self.address = self._process.stdout.readline().strip().removeprefix("listening at ")

    def kill(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def server(worker):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DLLAMA_SECRET", raising=False)
        patch.setattr(dispatcher_module, "PING", 0.1)
        patch.setattr(dispatcher_module, "RETRY", 0.1)
        with serving(workers=[worker.address], parallel=2) as running:
            yield running


@pytest.fixture
def client(server):
    server.gate.open()
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=LIMIT
    ) as made:
        yield made


def health(server) -> int:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=LIMIT) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def states(server) -> list[tuple[str | None, str]]:
    """Address and state of every node."""
    _, _, body = http(f"{server.url}/cluster")
    return [(node["address"], node["state"]) for node in json.loads(body)["nodes"]]


def ask(client, max_tokens=8, **options):
    return client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=max_tokens, extra_body={"ignore_eos": True},
        **options,
    )  # fmt: skip


def test_a_worker_that_dies_while_nothing_is_asked(client, server, worker):
    before = ask(client).choices[0].text
    assert health(server) == 200
    assert states(server) == [(None, "ok"), (worker.address, "ok")]
    worker.kill()
    wait_until(lambda: health(server) == 503)
    assert states(server) == [(None, "ok"), (worker.address, "lost")]
    assert "worker 1 (" in server.dispatcher.status.as_json(details=True)["lost"]
    with pytest.raises(openai.InternalServerError, match="worker of the cluster is lost") as found:
        ask(client)
    assert (found.value.status_code, found.value.code) == (503, "unavailable")
    assert found.value.response.headers["retry-after"] == "2"
    worker.start()
    wait_until(lambda: health(server) == 200)
    assert states(server) == [(None, "ok"), (worker.address, "ok")]
    again = ask(client)
    assert again.choices[0].text == before
    assert again.usage.prompt_tokens_details.cached_tokens == 0


def test_a_worker_that_dies_while_it_works(client, server, worker):
    before = ask(client).choices[0].text
    server.gate.shut(after=2)
    stream = ask(client, stream=True)
    assert [next(stream).choices[0].text for _ in range(2)]
    worker.kill()
    server.gate.open()
    with pytest.raises(openai.APIError, match="worker of the cluster is lost"):
        list(stream)
    assert health(server) == 503
    worker.start()
    wait_until(lambda: health(server) == 200)
    assert ask(client).choices[0].text == before
    assert server.count("dllama_cluster_lost_total") >= 1


def test_running_requests_end_and_waiting_ones_go_on(client, server, worker):
    before = ask(client).choices[0].text
    server.gate.shut()
    streams = [ask(client, stream=True, max_tokens=200) for _ in range(2)]

    def both_run() -> bool:
        server.gate.shut(after=1)  # requests begin between passes
        return server.count("dllama_requests_running") == 2

    wait_until(both_run)
    waiting: list[str] = []

    def wait() -> None:
        with connect(server.url) as other:
            waiting.append(ask(other).choices[0].text)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: server.dispatcher.waiting == 1)
    worker.kill()
    server.gate.open()
    for stream in streams:
        with pytest.raises(openai.APIError, match="worker of the cluster is lost"):
            list(stream)
    assert (server.dispatcher.waiting, waiting) == (1, [])
    worker.start()
    thread.join(LIMIT)
    assert waiting == [before]


def test_nobody_waits_for_ever(client, server, worker, monkeypatch):
    server.gate.shut()
    errors: list[openai.APIStatusError] = []

    def wait() -> None:
        with connect(server.url) as other, pytest.raises(openai.InternalServerError) as found:
            ask(other)
        errors.append(found.value)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    running = "dllama_requests_running"
    wait_until(lambda: server.dispatcher.waiting + server.count(running) == 3)
    monkeypatch.setattr(dispatcher_module, "PATIENCE", 0.5)
    worker.kill()
    server.gate.open()
    for thread in threads:
        thread.join(LIMIT)
    assert [error.status_code for error in errors] == [503] * 3
    worker.start()
    wait_until(lambda: health(server) == 200)
