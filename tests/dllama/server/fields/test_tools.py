"""Fields about functions, in requests and in their messages."""

from __future__ import annotations

import pytest
from refusals import refused

from dllama.server.apis.chat import parse_chat
from dllama.server.apis.responses.request import parse_response
from dllama.server.apis.responses.store import Store
from dllama.server.problems import ApiError

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
F = {"type": "function", "function": {"name": "f", "description": "Does.", "parameters": SCHEMA}}
G = {"type": "function", "function": {"name": "g"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def parse(**fields):
    return parse_chat({"messages": HELLO, **fields})


def named(name):
    return {"type": "function", "function": {"name": name}}


def test_tools_as_the_template_gets_them():
    tools = parse(tools=[F, G]).tools
    filled = {"description": "", "parameters": {"type": "object", "properties": {}}}
    assert tools.asked == [F, {"type": "function", "function": {"name": "g", **filled}}]
    assert [function.name for function in tools.functions] == ["f", "g"]
    assert [function.schema["additionalProperties"] for function in tools.functions] == [False] * 2
    strict = {**F["function"], "strict": True}
    assert not parse(tools=[{**F, "function": strict}]).tools.functions[0].lenient


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (["f", "g"], False, True)),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, (["f", "g"], False, True)),
        ({"tool_choice": "required"}, (["f", "g"], True, True)),
        ({"tool_choice": "required", "parallel_tool_calls": False}, (["f", "g"], True, False)),
        ({"tool_choice": named("g")}, (["g"], True, False)),
    ],
    ids=str,
)
def test_choices(fields, expected):
    tools = parse(tools=[F, G], **fields).tools
    names = [function.name for function in tools.functions]
    assert (names, tools.forced, tools.several) == expected


def test_nothing_may_be_called():
    assert parse(tools=[F], tool_choice="none").tools is None
    assert parse(tools=[], tool_choice="auto", parallel_tool_calls=True).tools is None


def test_schemas_that_are_nested_too_deeply():
    def tool(levels):
        schema = {"type": "integer"}
        for _ in range(levels):
            schema = {"properties": {"a": schema}}
        return {"type": "function", "function": {"name": "f", "parameters": schema}}

    assert parse(tools=[tool(49)]).tools
    for levels in (50, 900):
        with pytest.raises(ApiError, match="more than 100 levels deep") as found:
            parse(tools=[tool(levels)])
        assert found.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": {}}, "tools", "expected a list of functions"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "supports only 'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is missing"),
        ({"tools": [named(None)]}, "tools[0].function.name", "is missing"),
        ({"tools": [named("a b")]}, "tools[0].function.name", "is 'a b', expected 1 to 128"),
        ({"tools": [F, F]}, "tools", "two functions of one name"),
        ({"tools": [{**F, "function": {"name": "f", "parameters": []}}]},
         "tools[0].function.parameters", "expected a JSON schema"),
        ({"tools": [{**F, "x": 1}]}, "tools[0].x", "unknown field"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [F], "tool_choice": "any"}, "tool_choice", "is 'any', expected none, auto"),
        ({"tools": [F], "tool_choice": named("g")}, "tool_choice.function.name", "is 'g'"),
        ({"tools": [F], "parallel_tool_calls": 1}, "parallel_tool_calls", "true or false"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_fields(fields, param, message):
    with refused(param, message):
        parse(**fields)


def test_messages_as_the_template_gets_them():
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "2"}]},
        {"role": "tool", "tool_call_id": "7", "content": "3", "name": "g"},
        {"role": "assistant", "content": "Done.", "tool_calls": None, "reasoning": "Hm."},
        {"role": "assistant", "content": "So.", "reasoning_content": "Oh.", "reasoning": None},
    ]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert parse(messages=messages).messages == [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1", "name": "f"},
        {"role": "tool", "content": "3", "tool_call_id": "7", "name": "g"},
        {"role": "assistant", "content": "Done.", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "So.", "reasoning_content": "Oh."},
    ]


@pytest.mark.parametrize(
    ("message", "param", "expected"),
    [
        ({"role": "assistant", "content": None}, "content", "is missing"),
        ({"role": "assistant", "content": "", "reasoning_content": 5}, "reasoning_content", "is 5"),
        ({"role": "assistant", "tool_calls": {}}, "tool_calls", "expected a list of calls"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "tool_calls", "not support"),
        ({"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]},
         "tool_calls[0].type", "supports only 'function'"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "tool_calls[0].function", "missing"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]},
         "tool_calls[0].function.arguments", "is '[', expected a JSON object as a string"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_messages(message, param, expected):
    with pytest.raises(ApiError) as found:
        parse(messages=[message])
    assert expected in str(found.value)
    assert found.value.param == f"messages[0].{param}"


def test_arguments_of_all_calls_have_as_many_values_as_a_body(monkeypatch):
    """They are JSON in texts, where the values of a body are not counted."""
    monkeypatch.setattr("dllama.server.fields.messages.MAX_VALUES", 8)
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": [1, 2, ",[{"]}'}}

    def message(calls):
        return {"role": "assistant", "tool_calls": [call] * calls}

    assert len(parse(messages=[message(1), message(1)]).messages) == 2
    with pytest.raises(ApiError, match="the arguments of the calls have more than 8") as found:
        parse(messages=[message(1), message(2)])
    assert (found.value.status, found.value.code) == (413, "body_too_long")
    items = [{"type": "function_call", "call_id": "1", **call["function"]}] * 3
    with pytest.raises(ApiError, match="have more than 8 values"):
        parse_response({"input": items}, Store())
