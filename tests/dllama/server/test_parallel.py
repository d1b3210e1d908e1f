"""Requests that are answered at once."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from serving import LIMIT, connect, serving, wait_until

from dllama.server import delivery

PROMPTS = ("MACBETH:\n", "ROMEO:\nBut soft", "KING", "First Citizen:\nWe are", "HAMLET:\nTo be")


@pytest.fixture(scope="module", params=[1, 2])
def running(request):
    with serving(limit=16, parallel=3, nodes=request.param, buffer="f32") as started:
        yield started


def at_once(functions):
    """Call functions in threads of their own; what they return, in order."""
    found = [None] * len(functions)

    def call(at):
        found[at] = functions[at]()

    threads = [threading.Thread(target=call, args=(at,)) for at in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    return found


def test_each_has_the_answer_that_it_has_alone(server, expected):
    def ask(prompt, seed):
        with connect(server.url) as client:
            made = client.completions.create(
                model="demo", prompt=prompt, max_tokens=20, temperature=0.9, seed=seed,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            return made.choices[0].text

    server.gate.shut()
    asked = [(prompt, seed) for prompt in PROMPTS for seed in (1, 2)]

    def open_later():
        running = "dllama_requests_running"
        wait_until(lambda: server.dispatcher.waiting + server.count(running) == len(asked))
        server.gate.open()

    *found, _ = at_once([lambda one=one: ask(*one) for one in asked] + [open_later])
    for text, (prompt, seed) in zip(found, asked, strict=True):
        tokens = expected(prompt, 20, temperature=0.9, top_p=0.9, seed=seed, ignore_eos=True)
        assert text == "".join(token.text for token in tokens)


def test_who_leaves_takes_nothing_from_the_others(server, expected):
    server.gate.shut(after=2)
    body = {"prompt": PROMPTS[0], "max_tokens": 400, "stream": True, "ignore_eos": True}
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    )
    before = server.count("dllama_generated_tokens_total")
    port = int(server.url.rpartition(":")[2])

    def ask():
        with connect(server.url) as client:
            made = client.completions.create(model="demo", prompt=PROMPTS[1], max_tokens=9)
            return made.choices[0].text

    def leave():
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + raw)
            wait_until(lambda: server.count("dllama_generated_tokens_total") > before)
        wait_until(lambda: server.count("dllama_requests_running") <= 1)
        server.gate.open()

    text, _ = at_once([ask, leave])
    assert text == "".join(token.text for token in expected(PROMPTS[1], 9, top_p=0.9))


def test_a_stream_says_that_it_waits(server, monkeypatch):
    monkeypatch.setattr(delivery, "QUIET", 0.05)
    server.gate.shut()
    body = {"prompt": PROMPTS[0], "max_tokens": 2, "stream": True, "ignore_eos": True}
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), LIMIT) as connection:
        connection.sendall(head.encode() + raw)
        received = b""
        while received.count(b": waiting\n\n") < 3:
            received += connection.recv(4096)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"text/event-stream" in received
        assert b"data: " not in received
        server.gate.open()
        while piece := connection.recv(4096):
            received += piece
    assert received.count(b"data: {") == 3
    assert b"data: [DONE]" in received


def test_times_are_counted(server):
    with connect(server.url) as client:
        client.completions.create(model="demo", prompt=PROMPTS[0], max_tokens=3)
    text = server.metrics.text().decode()
    for name in ("queue_time", "time_to_first_token", "token"):
        assert server.count(f"dllama_{name}_seconds_count") > 0
        assert f'dllama_{name}_seconds_bucket{{le="0.1"}}' in text
