"""Calls of functions as OpenAI's client sees them. A grammar makes the model say what it is to."""

from __future__ import annotations

import json

import openai
import pytest
from serving import connect, serving, wait_until
from tooling import CALL, CITY

from dllama.server.tools.hermes import Hermes

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
NOW = {"type": "function", "function": {"name": "now"}}
NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}
ASKED = [{"role": "user", "content": "Rain?"}]


@pytest.fixture
def ask(running):
    """ask(**fields): a chat completion of the server, without thoughts if nothing else is asked."""
    wait_until(lambda: running.count("dllama_requests_running") == 0)
    with connect(running.url) as client:

        def create(**fields):
            given = {
                "messages": ASKED,
                "tools": [WEATHER, NOW],
                "max_tokens": 60,
                "extra_body": NO_THOUGHTS,
                **fields,
            }
            return client.chat.completions.create(model="demo", **given)

        yield create


def joined(chunks):
    """The message and the end that the chunks of a stream have in common."""
    content, calls, reason = "", [], None
    for chunk in chunks:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or ():
            if call.id:
                assert call.index == len(calls)
                calls.append([call.id, call.function.name, call.function.arguments])
            else:
                assert call.index == len(calls) - 1
                calls[-1][2] += call.function.arguments
    return content, [call[1:] for call in calls], reason


def test_a_call_in_a_text(ask, says):
    says([f"Let me look.\n{CALL}"])
    (choice,) = ask().choices
    (call,) = choice.message.tool_calls
    assert (choice.message.content, choice.finish_reason) == ("Let me look.", "tool_calls")
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Rome"}


def test_a_stream_has_the_same_calls(ask, says):
    says([f"Look: {CALL}\n{CALL.replace('Rome', 'Paris')}"])
    chunks = list(ask(stream=True, max_tokens=120))
    calls = [["weather", '{"city": "Rome"}'], ["weather", '{"city": "Paris"}']]
    assert joined(chunks) == ("Look:", calls, "tool_calls")
    pieces = [chunk.choices[0].delta.tool_calls for chunk in chunks]
    assert sum(bool(piece) for piece in pieces) > 6
    (choice,) = ask(max_tokens=120).choices
    found = [[one.function.name, one.function.arguments] for one in choice.message.tool_calls]
    assert found == calls
    assert len({one.id for one in choice.message.tool_calls}) == 2
    alone = ask(max_tokens=120, parallel_tool_calls=False).choices[0].message
    assert [one.function.arguments for one in alone.tool_calls] == ['{"city": "Rome"}']


def test_only_calls_have_no_content(ask, says):
    says([CALL])
    assert ask().choices[0].message.content is None
    cut = ask(max_tokens=12).choices[0]
    assert cut.finish_reason == "length"


def test_text_without_calls(ask, says):
    says(["No rain."])
    (choice,) = ask().choices
    assert (choice.message.content, choice.message.tool_calls) == ("No rain.", None)
    assert choice.finish_reason == "stop"
    says([CALL])
    (choice,) = ask(tool_choice="none").choices
    assert (choice.message.content, choice.message.tool_calls) == (CALL, None)


def test_special_tokens_are_text_where_the_format_needs_them(ask, says, monkeypatch):
    monkeypatch.setattr(Hermes, "markers", ("<|start_header_id|>",))
    says('start: <|start_header_id|> <|end_header_id|> "Hm."', "grammar")
    assert ask().choices[0].message.content == "<|start_header_id|>Hm."
    assert ask(tool_choice="none").choices[0].message.content == "Hm."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str
)
def test_a_call_that_has_to_come(ask, choice, stream):
    """The model is not made to say anything: the grammar of the functions makes it call one."""
    answer = ask(
        tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, stream=stream, max_tokens=90
    )
    if stream:
        content, ((name, arguments),), reason = joined(answer)
    else:
        message, reason = answer.choices[0].message, answer.choices[0].finish_reason
        (call,) = message.tool_calls
        content, name = message.content or "", call.function.name
        arguments = call.function.arguments
    assert (content, name, reason) == ("", "weather", "tool_calls")
    assert json.loads(arguments)["city"] in ("Paris", "Rome")


def test_functions_that_have_no_grammar(ask):
    """They may be called, but nothing can make the model call them rightly, or call them at all."""
    broken = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": broken}}
    assert ask(tools=[tool], max_tokens=2).choices[0].finish_reason == "length"
    tool["function"]["strict"] = True
    for fields in ({}, {"tool_choice": "required"}):
        with pytest.raises(openai.BadRequestError, match="tools: ") as found:
            ask(tools=[tool], **fields)
        assert found.value.param == "tools"


def test_a_text_that_fits_beside_functions(ask):
    """It is one or the other, as the model likes."""
    asked = {"type": "json_schema", "json_schema": {"schema": CITY, "strict": True}}
    message = ask(response_format=asked, tools=[WEATHER], max_tokens=90).choices[0].message
    calls = [call.function.arguments for call in message.tool_calls or ()]
    for text in calls or [message.content]:
        assert json.loads(text)["city"] in ("Paris", "Rome")


def test_thoughts_of_the_model(ask, says):
    says(["<think>\nHm.\n</think>\n\nYes."])
    fields = {"tools": [], "extra_body": {}}
    message = ask(**fields).choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes.", "Hm.")
    chunks = list(ask(**fields, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == "Yes."
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Hm."
    usage = chunks[-1].usage
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


def test_a_text_that_fits_comes_after_thoughts(ask):
    """The demo model never ends a thought, so nothing but one comes if the prompt opens it."""
    for thinks, content in ((True, ""), (False, "Yes.")):
        fields = {"choice": ["Yes."], "chat_template_kwargs": {"enable_thinking": thinks}}
        message = ask(tools=[], max_tokens=8, extra_body=fields).choices[0].message
        assert (message.content, hasattr(message, "reasoning_content")) == (content, thinks)


def test_thoughts_in_the_history(ask, says):
    says(["Yes."])
    thought = {"role": "assistant", "content": "No.", "reasoning_content": "Hm."}
    answers = [
        ask(tools=[], messages=[*ASKED, message, *ASKED])
        for message in (thought, {"role": "assistant", "content": "<think>Hm.</think>No."})
    ]
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens


def test_calls_in_the_history(ask, says):
    """The template gets arguments as objects, and the name of what a result is of."""
    says(["Yes."])
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    history = [
        *ASKED,
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "It rains."}]},
    ]  # fmt: skip
    rendered = "<|user|>Rain?<|assistant|><tool_call>weatherRome</tool_call><|tool|>It rains."
    plain = [{"role": "user", "content": f"{rendered[8:]}weatherc1"}]
    first = ask(messages=history)
    assert first.choices[0].message.content == "Yes."
    assert first.usage.prompt_tokens == ask(messages=plain).usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"strict": True,
          "schema": {"not": {}}}}}, "response_format.json_schema.schema", "schema: "),
        ({"tool_choice": "required", "tools": [
            {"type": "function", "function": {
                "name": "f", "strict": True,
                "parameters": {"properties": {"a": {"not": {}}}}}}]},
         "tools", "tools: "),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_done(ask, fields, param, message):
    with pytest.raises(openai.BadRequestError, match=message) as found:
        ask(**fields)
    assert found.value.param == param


def test_a_template_without_functions():
    """The model is told of them in a message, and a grammar can make it call one."""
    with serving(limit=2) as plain, connect(plain.url) as client:
        asked = {"model": "demo", "messages": ASKED, "tools": [WEATHER], "max_tokens": 90}
        made = client.chat.completions.create(
            **asked, tool_choice="required", parallel_tool_calls=False
        )
        (call,) = made.choices[0].message.tool_calls
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        without = client.chat.completions.create(**asked, tool_choice="none")
        assert without.usage.prompt_tokens < made.usage.prompt_tokens
        odd = {"chat_template_kwargs": {"tools": [1]}}
        assert client.chat.completions.create(**asked | {"tools": []}, extra_body=odd).choices
