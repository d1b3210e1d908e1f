"""Requests that wait, are rejected, or whose clients disconnect."""

from __future__ import annotations

import json
import socket
import threading

import openai
import pytest
from serving import LIMIT, connect, wait_until

PROMPT = "MACBETH:\n"


@pytest.mark.parametrize("stream", [False, True])
def test_generation_stops_when_the_client_disconnects(server, stream):
    server.gate.shut(after=3)
    before = server.count("dllama_generated_tokens_total")
    body = {"prompt": PROMPT, "max_tokens": 400, "stream": stream, "ignore_eos": True}
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    )
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + raw)
        wait_until(lambda: server.count("dllama_generated_tokens_total") == before + 3)
    wait_until(lambda: server.count("dllama_requests_running") == 0)
    assert server.count("dllama_generated_tokens_total") - before <= 4


def test_a_full_queue_rejects_requests(client, server):
    server.gate.shut()
    answers = []

    def ask():
        with connect(server.url) as other:
            made = other.completions.create(model="demo", prompt=PROMPT, max_tokens=2)
            answers.append(made.choices[0].text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    threads[0].start()
    wait_until(lambda: server.count("dllama_requests_running") == 1)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: server.dispatcher.waiting == 2)
    with pytest.raises(openai.RateLimitError, match="2 requests are waiting") as found:
        client.completions.create(model="demo", prompt=PROMPT)
    assert 1 <= int(found.value.response.headers["retry-after"]) <= 60
    server.gate.open()
    for thread in threads:
        thread.join(LIMIT)
    assert len(set(answers)) == 1
    assert len(answers) == 3


def test_a_waiting_client_may_disconnect(client, server):
    server.gate.shut()
    done = threading.Event()

    def ask():
        with connect(server.url) as other:
            other.completions.create(model="demo", prompt=PROMPT, max_tokens=2)
            done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: server.count("dllama_requests_running") == 1)
    port = int(server.url.rpartition(":")[2])
    raw = json.dumps({"prompt": PROMPT}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + raw)
        wait_until(lambda: server.dispatcher.waiting == 1)
    wait_until(lambda: server.dispatcher.waiting == 0)
    assert not done.is_set()
    server.gate.open()
    thread.join(LIMIT)
    assert done.is_set()
