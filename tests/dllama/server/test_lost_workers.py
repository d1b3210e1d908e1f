"""A server whose worker dies: status 503 until it is back, then it works again."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import urllib.error
import urllib.request

import openai
import pytest
from serving import LIMIT, serving, wait_until

from dllama.server import dispatcher as dispatcher_module

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
        with serving(workers=[worker.address]) as running:
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


def ask(client, **options):
    return client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=8, extra_body={"ignore_eos": True}, **options
    )


def test_a_worker_that_dies_while_nothing_is_asked(client, server, worker):
    before = ask(client).choices[0].text
    assert health(server) == 200
    worker.kill()
    wait_until(lambda: health(server) == 503)
    with pytest.raises(openai.InternalServerError, match="worker of the cluster is lost") as found:
        ask(client)
    assert (found.value.status_code, found.value.code) == (503, "unavailable")
    assert found.value.response.headers["retry-after"] == "2"
    worker.start()
    wait_until(lambda: health(server) == 200)
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
