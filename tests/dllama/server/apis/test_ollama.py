"""Ollama's API as its client sees it. A grammar makes the model say what it is to."""

from __future__ import annotations

import json

import ollama as package
import pytest
from serving import LIMIT, http
from tooling import CALL, CITY

ASKED = [{"role": "user", "content": "Does it rain?"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


@pytest.fixture
def ollama(server):
    """Ollama's client, connected to the server."""
    with package.Client(host=server.url, timeout=LIMIT) as made:
        yield made


@pytest.mark.parametrize("name", ["demo", "demo:latest"])
def test_a_chat(ollama, client, name):
    options = {"num_predict": 6, "temperature": 0, "seed": 1, "num_ctx": 4096}
    answer = ollama.chat(name, messages=ASKED, options=options, keep_alive="5m")
    chat = client.chat.completions.create(
        model="demo", max_tokens=6, messages=ASKED, temperature=0
    ).choices[0]  # fmt: skip
    assert answer.message.content == chat.message.content
    assert (answer.model, answer.done, answer.done_reason) == ("demo:latest", True, "length")
    assert (answer.eval_count, answer.prompt_eval_count > 5) == (6, True)
    assert 0 < answer.eval_duration < answer.total_duration
    assert 0 < answer.prompt_eval_duration < answer.total_duration


def test_streams_are_lines(ollama, says, server):
    says(["No rain."])
    pieces = list(ollama.chat("demo", messages=ASKED, stream=True))
    assert "".join(piece.message.content for piece in pieces) == "No rain."
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (len(pieces) > 2, pieces[-1].done_reason) == (True, "stop")
    body = {"model": "demo", "messages": ASKED}
    status, headers, raw = http(f"{server.url}/api/chat", body)
    assert (status, headers["content-type"]) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in raw.decode().splitlines()]
    assert len(lines) == len(pieces)


@pytest.mark.parametrize("stream", [False, True])
def test_calls(ollama, says, stream):
    says([f"Look:\n{CALL}\n{CALL.replace('Rome', 'Paris')}"])
    answer = ollama.chat(
        "demo", messages=ASKED, tools=[WEATHER], options={"num_predict": 120}, stream=stream
    )
    messages = [piece.message for piece in answer] if stream else [answer.message]
    assert "".join(message.content for message in messages) == "Look:"
    calls = [call.function for message in messages for call in message.tool_calls or ()]
    assert [(call.name, call.arguments["city"]) for call in calls] == [
        ("weather", "Rome"), ("weather", "Paris"),
    ]  # fmt: skip
    if not stream:
        result = {"role": "tool", "content": "It rains.", "tool_name": "weather"}
        told = [*ASKED, answer.message, result]
        ollama.chat("demo", messages=told, options={"num_predict": 1})


@pytest.mark.parametrize("stream", [False, True])
def test_prompts(ollama, client, stream):
    def text(**fields):
        given = {"options": {"num_predict": 5, "temperature": 0}, "stream": stream, **fields}
        answer = ollama.generate("demo", "ROMEO:\n", **given)
        return "".join(one.response for one in (answer if stream else [answer]))

    completion = client.completions.create(
        model="demo", prompt="ROMEO:\n", max_tokens=5, temperature=0
    )
    assert text(raw=True) == completion.choices[0].text
    told = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "ROMEO:\n"}]
    chat = client.chat.completions.create(
        model="demo", messages=told, max_tokens=5, temperature=0
    ).choices[0]
    assert text(system="Be short.") == chat.message.content
    assert text(format="json").startswith("{")


def test_the_model(ollama):
    (model,), (running,) = ollama.list().models, ollama.ps().models
    assert (model.model, running.digest) == ("demo:latest", model.digest)
    assert (running.context_length, model.size > 5e6) == (512, True)
    assert model.details.parameter_size == "5.77M"
    shown = ollama.show("demo")
    assert (shown.details, shown.capabilities) == (model.details, ["completion", "tools"])
    assert shown.modelinfo["llama.context_length"] == 512
    assert "tool_call" in shown.template
    with pytest.raises(package.ResponseError, match="'other' does not exist"):
        ollama.show("other")


def test_loading_the_model(ollama, server):
    assert ollama.chat("demo").done_reason == "load"
    assert (ollama.generate("demo").response, ollama.generate("demo").done) == ("", True)
    with pytest.raises(package.ResponseError, match="'other' does not exist"):
        ollama.chat("other")
    assert "version" in json.loads(http(f"{server.url}/api/version")[2])


def test_errors(ollama):
    for stream in (False, True):
        with pytest.raises(package.ResponseError, match="temperature is 3"):
            list(ollama.chat("demo", messages=ASKED, options={"temperature": 3}, stream=stream))
