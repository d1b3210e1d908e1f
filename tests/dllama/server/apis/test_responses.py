"""/v1/responses as OpenAI's client sees it. A grammar makes the model say what it is to."""

from __future__ import annotations

import json

import openai
import pydantic
import pytest
from serving import http
from tooling import CALL, CITY

WEATHER = {"type": "function", "name": "weather", "parameters": CITY}
ASKED = "Does it rain?"


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    age: int = pydantic.Field(ge=0, le=9)


def test_a_text(client):
    answer = client.responses.create(
        model="demo", input=ASKED, instructions="Be short.", max_output_tokens=6
    )
    chat = client.chat.completions.create(
        model="demo", max_tokens=6,
        messages=[{"role": "system", "content": "Be short."}, {"role": "user", "content": ASKED}],
    )  # fmt: skip
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.output[0].status == "incomplete"
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert (answer.usage.output_tokens, answer.usage.total_tokens) == (6, chat.usage.total_tokens)
    assert (answer.instructions, answer.max_output_tokens) == ("Be short.", 6)


def test_the_events_of_a_text(client, says):
    says(["No rain."])
    events = list(client.responses.create(model="demo", input=ASKED, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == "No rain."
    assert len(pieces) > 1
    assert list(dict.fromkeys(kinds)) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    response = events[-1].response
    assert (response.output_text, response.status) == ("No rain.", "completed")
    assert response.usage.output_tokens >= len(pieces)
    assert response.id == events[0].response.id


def test_calls(client, says):
    says([f"Look:\n{CALL}\n{CALL.replace('Rome', 'Paris')}"])
    options = {"model": "demo", "input": ASKED, "tools": [WEATHER]}
    with client.responses.stream(**options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response().output
    assert kinds.count("response.function_call_arguments.done") == 2
    whole = client.responses.create(**options).output
    for text, rome, paris in (streamed, whole):
        assert text.content[0].text == "Look:"
        assert (rome.name, json.loads(rome.arguments)) == ("weather", {"city": "Rome"})
        assert (paris.type, json.loads(paris.arguments)) == ("function_call", {"city": "Paris"})
        assert len({rome.call_id, paris.call_id, rome.id, paris.id}) == 4
    alone = client.responses.create(**options, parallel_tool_calls=False)
    assert [item.type for item in alone.output] == ["message", "function_call"]


def test_a_call_that_has_to_come_and_its_result(client):
    options = {"model": "demo", "tools": [WEATHER], "max_output_tokens": 90}
    asked = [{"role": "user", "content": ASKED}]
    choice = {"type": "function", "name": "weather"}
    answer = client.responses.create(input=asked, tool_choice=choice, **options)
    (call,) = answer.output
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    client.responses.create(input=[*asked, call, result], tool_choice="none", **options)


def test_a_text_that_fits(client):
    answer = client.responses.parse(model="demo", input="Invent.", text_format=Person)
    assert isinstance(answer.output_parsed, Person)
    free = {"format": {"type": "json_object"}}
    answer = client.responses.create(model="demo", input="Invent.", text=free, max_output_tokens=1)
    assert answer.output_text.startswith("{")


def test_conversations_that_are_kept(client):
    first = client.responses.create(model="demo", input=ASKED, max_output_tokens=4)
    told = [
        {"role": "user", "content": ASKED}, first.output[0], {"role": "user", "content": "And?"},
    ]  # fmt: skip
    reference = {"type": "item_reference", "id": first.output[0].id}
    given = [
        {"input": told},
        {"input": "And?", "previous_response_id": first.id},
        {"input": [told[0], reference, told[2]]},
    ]
    texts = [client.responses.create(model="demo", max_output_tokens=4, **one) for one in given]
    assert len({answer.usage.input_tokens for answer in texts}) == 1
    assert len({answer.output_text for answer in texts}) == 1
    third = client.responses.create(
        model="demo", input="Why?", previous_response_id=texts[1].id, max_output_tokens=1
    )
    assert third.usage.input_tokens > texts[1].usage.input_tokens


def test_conversations_that_are_not_kept(client):
    answer = client.responses.create(model="demo", input=ASKED, max_output_tokens=2, store=False)
    with pytest.raises(openai.BadRequestError, match="does not keep such response") as found:
        client.responses.create(model="demo", input=ASKED, previous_response_id=answer.id)
    assert found.value.code == "previous_response_not_found"


def test_errors(client, server):
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        client.responses.create(model="other", input=ASKED)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="temperature is 3"):
            client.responses.create(model="demo", input=ASKED, temperature=3, stream=stream)
    status, _, raw = http(f"{server.url}/v1/responses", {"input": []})
    assert (status, json.loads(raw)["error"]["param"]) == (400, "input")
