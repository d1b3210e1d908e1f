"""The bodies of /v1/messages: what becomes of correct ones, and errors for the others."""

from __future__ import annotations

import pytest
from refusals import refused
from tooling import CITY

from dllama.server.apis.anthropic.format import MessageFormat
from dllama.server.apis.anthropic.request import parse_message
from dllama.server.problems import ApiError
from dllama.text.template import Begin

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "f", "input_schema": CITY}
USE = {"type": "tool_use", "id": "1", "name": "f", "input": {"city": "Rome"}}


def text(value):
    return {"type": "text", "text": value, "cache_control": {"type": "ephemeral"}}


def parse(**fields):
    return parse_message({"max_tokens": 9, "messages": HELLO, **fields})


def test_blocks_become_messages():
    told = [
        {"role": "user", "content": [text("Hello"), text("you.")]},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            text("Wait"), text("a bit."), USE, {**USE, "id": "2"},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "1", "content": [text("wet"), text("cold")]},
            {"type": "tool_result", "tool_use_id": "2", "is_error": True},
            text("So?"),
        ]},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"city": "Rome"}}}
    system = [text("x-anthropic-billing-header: cch=1;"), text("Be short."), text("Be kind.")]
    assert parse(system=system, messages=told).messages == [
        {"role": "system", "content": "Be short.\n\nBe kind."},
        {"role": "user", "content": "Hello\n\nyou.\n\nRain?"},
        {"role": "assistant", "reasoning_content": "Hm.", "content": "Wait\n\na bit.",
         "tool_calls": [call, {**call, "id": "2"}]},
        {"role": "tool", "content": "wet\n\ncold", "tool_call_id": "1", "name": "f"},
        {"role": "tool", "content": "", "tool_call_id": "2", "name": "f"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip


def test_fields():
    asked = parse(
        model="m", system="", stop_sequences=["a"], temperature=1, top_p=0.5, top_k=7, stream=True,
        thinking={"type": "enabled", "budget_tokens": 1024}, output_config={"effort": "low"},
        tools=[{**TOOL, "type": "custom", "cache_control": None, "eager_input_streaming": True}],
        metadata={"user_id": "me"}, service_tier="auto", context_management={"edits": []}, seed=3,
    )  # fmt: skip
    options = asked.options
    assert (options.model, options.max_tokens, options.stream, options.stop) == (
        "m", 9, True, ("a",),
    )  # fmt: skip
    assert options.sampling == {"temperature": 1.0, "top_p": 0.5, "top_k": 7, "seed": 3}
    assert asked.variables == {"enable_thinking": True, "reasoning_effort": "low"}
    assert (asked.tools.forced, asked.tools.several) == (False, True)
    assert parse(thinking={"type": "disabled"}).variables == {"enable_thinking": False}
    assert (parse().variables, parse().messages) == ({}, HELLO)
    assert parse_message({"messages": HELLO}, limited=False).options.max_tokens is None


def test_a_last_answer_goes_on():
    begun = [*HELLO, {"role": "assistant", "content": "It"}]
    assert parse(messages=begun).begin is Begin.REST
    for told in (HELLO, [*HELLO, {"role": "assistant", "content": [text("It"), USE]}]):
        assert parse(messages=told).begin is Begin.NEXT


@pytest.mark.parametrize("name", ["output_format", "output_config"])
def test_schemas(name):
    given = {"type": "json_schema", "schema": CITY}
    grammar = parse(**{name: given if name == "output_format" else {"format": given}}).options
    assert grammar.grammar.value == CITY


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, (["f", "g"], False, True)),
        ({"type": "any"}, (["f", "g"], True, True)),
        ({"type": "any", "disable_parallel_tool_use": True}, (["f", "g"], True, False)),
        ({"type": "tool", "name": "g"}, (["g"], True, False)),
    ],
    ids=str,
)
def test_choices(choice, expected):
    tools = parse(tools=[TOOL, {**TOOL, "name": "g"}], tool_choice=choice).tools
    names = [function.name for function in tools.functions]
    assert (names, tools.forced, tools.several) == expected
    assert parse(tools=[TOOL], tool_choice={"type": "none"}).tools is None


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": None}, "messages", "is missing"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "one of user"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "a list of at"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]},
         "messages[0].content[0].type", "supports only 'text', 'tool_result' in"),
        ({"messages": [{"role": "user", "content": [USE]}]},
         "messages[0].content[0].type", "is 'tool_use'"),
        ({"messages": [{"role": "assistant", "content": [{**USE, "input": "a"}]}]},
         "messages[0].content[0].input", "a JSON object"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
         "messages[0].content[0].tool_use_id", "is missing"),
        ({"messages": [{"role": "user", "content": [{**text("a"), "x": 1}]}]},
         "messages[0].content[0].x", "unknown field"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least one"),
        ({"system": [{"type": "image"}]}, "system[0].type", "supports only 'text'"),
        ({"max_tokens": None}, "max_tokens", "is missing"),
        ({"stop_sequences": [""]}, "stop_sequences", "non-empty"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type", "'custom'"),
        ({"tools": [{"input_schema": CITY}]}, "tools[0].name", "is missing"),
        ({"tools": [{**TOOL, "input_schema": 1}]}, "tools[0].input_schema", "a JSON schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "x"}}, "tool_choice.type", "one of auto"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name", "is missing"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}},
         "tool_choice.name", "the name of one"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.name", "there are no tools"),
        ({"thinking": {"type": "x"}}, "thinking.type", "one of enabled"),
        ({"mcp_servers": [{"url": "a"}]}, "mcp_servers", "does not support"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema", "is missing"),
        ({"output_config": {"format": {"type": "x"}}}, "output_config.format.type", "json_schema"),
        ({"container": "a"}, "container", "unknown field"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_fields(fields, param, message):
    with refused(param, message):
        parse(**fields)


def test_an_error_ends_a_stream():
    made = MessageFormat((), None, parse().options, [1], None)
    framed = made.frame(made.error(ApiError(503, "gone")))
    assert framed == (
        'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"gone"}}'
        "\n\n"
    )
