"""/v1/messages as Anthropic's client sees it. A grammar makes the model say what it is to."""

from __future__ import annotations

from typing import Literal

import pydantic
import pytest
from serving import LIMIT, http
from tooling import CALL, CITY

ASKED = [{"role": "user", "content": "Does it rain?"}]
WEATHER = {"name": "weather", "description": "The weather.", "input_schema": CITY}


class Person(pydantic.BaseModel):
    name: Literal["Macbeth", "Banquo"]
    alive: bool


@pytest.fixture
def claude(server):
    """Anthropic's client, connected to the server."""
    import anthropic  # takes a second, which only those who run these tests need

    with anthropic.Anthropic(
        base_url=server.url, api_key="none", max_retries=0, timeout=LIMIT
    ) as made:
        yield made


@pytest.fixture
def messages(claude):
    """The messages of Anthropic's client."""
    return claude.messages


def test_a_text(messages, client):
    answer = messages.create(
        model="demo", max_tokens=6, messages=ASKED, system="Be short.",
        metadata={"user_id": "me"}, extra_headers={"anthropic-beta": "a,b"},
        extra_body={"temperature": 0, "top_k": 5},
    )  # fmt: skip
    told = [{"role": "system", "content": "Be short."}, *ASKED]
    chat = client.chat.completions.create(model="demo", max_tokens=6, messages=told)
    (block,) = answer.content
    assert (block.type, block.text) == ("text", chat.choices[0].message.content)
    assert (answer.role, answer.stop_reason, answer.stop_sequence) == (
        "assistant", "max_tokens", None,
    )  # fmt: skip
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens
    assert usage.output_tokens == 6
    known = messages.create(model="demo", max_tokens=1, messages=ASKED, system="Be short.").usage
    assert known.cache_read_input_tokens >= chat.usage.prompt_tokens - 1


def test_the_events_of_a_text(messages, says):
    says(["No rain."])
    options = {"model": "demo", "max_tokens": 20, "messages": ASKED}
    with messages.stream(**options) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_message()
    assert [kind for kind in dict.fromkeys(kinds) if kind != "text"] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert (answer.content[0].text, answer.stop_reason) == ("No rain.", "end_turn")
    whole = messages.create(**options)
    assert (whole.content[0].text, whole.stop_reason) == ("No rain.", "end_turn")
    assert answer.usage.output_tokens == whole.usage.output_tokens
    assert answer.usage.cache_read_input_tokens + answer.usage.input_tokens > 5


@pytest.mark.parametrize("stream", [False, True])
def test_stop_sequences(messages, says, stream):
    says(["No rain."])
    options = {"model": "demo", "max_tokens": 20, "messages": ASKED, "stop_sequences": ["x", "ai"]}
    if stream:
        with messages.stream(**options) as events:
            answer = events.get_final_message()
    else:
        answer = messages.create(**options)
    assert answer.content[0].text == "No r"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "ai")


def test_calls(messages, says):
    says([f"Look:\n{CALL}\n{CALL.replace('Rome', 'Paris')}"])
    options = {"model": "demo", "max_tokens": 120, "messages": ASKED, "tools": [WEATHER]}
    with messages.stream(**options) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        streamed = stream.get_final_message()
    assert len(pieces) > 6
    for answer in (streamed, messages.create(**options)):
        text, rome, paris = answer.content
        assert (text.text, answer.stop_reason) == ("Look:", "tool_use")
        assert (rome.type, rome.name, rome.input) == ("tool_use", "weather", {"city": "Rome"})
        assert paris.input == {"city": "Paris"}
        assert rome.id != paris.id
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(messages.create(**options, tool_choice=choice).content) == 2
    says([CALL])
    cut = messages.create(**{**options, "max_tokens": 34})
    assert (cut.content[0].input, cut.stop_reason) == ({}, "max_tokens")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}], ids=str)
def test_a_call_that_has_to_come_and_its_result(messages, choice):
    options = {"model": "demo", "max_tokens": 90, "tools": [WEATHER]}
    answer = messages.create(messages=ASKED, tool_choice=choice, **options)
    call = answer.content[0]
    assert call.input["city"] in ("Paris", "Rome")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
    told = [*ASKED, {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]}]  # fmt: skip
    messages.create(messages=told, **{**options, "max_tokens": 1})


def test_a_text_that_fits(messages):
    answer = messages.parse(model="demo", max_tokens=200, messages=ASKED, output_format=Person)
    assert isinstance(answer.parsed_output, Person)


def test_tokens_are_counted(messages):
    counted = messages.count_tokens(model="demo", messages=ASKED, tools=[WEATHER], system="a")
    answer = messages.create(
        model="demo", max_tokens=1, messages=ASKED, tools=[WEATHER], system="a"
    )
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors(messages, server):
    from anthropic import NotFoundError

    with pytest.raises(NotFoundError, match="'other' does not exist"):
        messages.create(model="other", max_tokens=1, messages=ASKED)
    for path in ("messages", "messages/count_tokens"):
        status, _, raw = http(f"{server.url}/v1/{path}", {"messages": []})
        assert (status, raw[:49]) == (400, b'{"type":"error","error":{"type":"invalid_request_')


def test_an_answer_that_is_begun_goes_on(messages, client):
    begun = [*ASKED, {"role": "assistant", "content": "It rains"}]
    answer = messages.create(model="demo", max_tokens=4, messages=begun)
    chat = client.chat.completions.create(
        model="demo", max_tokens=4, messages=begun, extra_body={"continue_final_message": True}
    )
    assert answer.content[0].text == chat.choices[0].message.content


def test_models(claude, client):
    (listed,) = claude.models.list()
    (same,) = client.models.list()
    assert (listed.type, listed.id, listed.display_name) == ("model", "demo", "demo")
    assert listed.created_at.timestamp() == same.created
    assert claude.models.retrieve("demo") == listed
