"""The bodies of /v1/responses: what becomes of correct ones, and errors for the others."""

from __future__ import annotations

import pytest
from refusals import refused
from tooling import CITY

from dllama.server.apis.responses.format import ResponseObject
from dllama.server.apis.responses.request import parse_response
from dllama.server.apis.responses.store import Store
from dllama.server.problems import ApiError
from dllama.server.tools.answer import Answer
from dllama.server.tools.base import TextParser

TOOL = {"type": "function", "name": "f", "parameters": CITY}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"city": "Rome"}'}
TEXT = {"type": "text", "text": "a"}


def parse(**fields):
    return parse_response({"input": "Hello", **fields}, Store())


def test_items_become_messages():
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Rule."}]},
        {"role": "user", "content": "Hello", "type": "message"},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}],
         "encrypted_content": None},
        {"role": "assistant", "id": "m", "status": "completed",
         "content": [{"type": "output_text", "text": "Wait.", "annotations": []}]},
        CALL, {**CALL, "call_id": "2", "id": "x"},
        {"type": "function_call_output", "call_id": "2", "output": "wet"},
        {"type": "function_call_output", "call_id": "1", "output": [TEXT]},
        {"role": "assistant", "content": "It rains."},
        {"type": "reasoning", "id": "r", "summary": []},
        CALL,
    ]  # fmt: skip
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"city": "Rome"}}}
    assert parse(input=items, instructions="Be short.").conversation.messages == [
        {"role": "system", "content": "Be short.\n\nRule."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "reasoning_content": "Hm.", "content": "Wait.",
         "tool_calls": [call, {**call, "id": "2"}]},
        {"role": "tool", "content": "wet", "tool_call_id": "2", "name": "f"},
        {"role": "tool", "content": "a", "tool_call_id": "1", "name": "f"},
        {"role": "assistant", "content": "It rains.", "tool_calls": [call]},
    ]  # fmt: skip


def test_fields():
    asked = parse(
        model="m", max_output_tokens=5, temperature=1, top_p=0.5, stream=True, seed=3, store=False,
        reasoning={"effort": "low", "summary": "auto"}, text={"verbosity": "medium"}, user="me",
        include=["reasoning.encrypted_content"], truncation="disabled", metadata={"a": "b"},
        stream_options={"include_obfuscation": False}, tools=[TOOL], tool_choice="required",
    )  # fmt: skip
    options = asked.conversation.options
    assert (options.model, options.max_tokens, options.stream) == ("m", 5, True)
    assert options.sampling == {"temperature": 1.0, "top_p": 0.5, "seed": 3}
    assert asked.conversation.variables == {"reasoning_effort": "low"}
    assert (asked.conversation.tools.forced, asked.store) == (True, False)
    assert asked.repeated["tools"] == [TOOL]
    named = parse(tools=[TOOL], tool_choice={"type": "function", "name": "f"}).conversation.tools
    assert (named.forced, named.several) == (True, False)
    assert parse(tools=[TOOL], tool_choice="none").conversation.tools is None


@pytest.mark.parametrize(
    ("format", "schema", "lenient"),
    [
        ({"type": "json_object"}, {"type": "object"}, False),
        ({"type": "json_schema", "name": "a", "schema": CITY}, CITY, True),
        ({"type": "json_schema", "name": "a", "schema": CITY, "strict": True}, CITY, False),
    ],
)
def test_formats(format, schema, lenient):
    grammar = parse(text={"format": format}).conversation.options.grammar
    assert grammar.value == schema
    assert grammar.lenient is lenient or format["type"] == "json_object"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": None}, "input", "is missing"),
        ({"input": []}, "input", "at least one item"),
        ({"input": [1]}, "input[0]", "expected a JSON object"),
        ({"input": [{"role": "boss", "content": ""}]}, "input[0].role", "'boss'"),
        ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].type", "supports only 'input_text'"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "supports only 'message'"),
        ({"input": [{**CALL, "arguments": "["}]}, "input[0].arguments", "a JSON object"),
        ({"input": [{**CALL, "call_id": None}]}, "input[0].call_id", "is missing"),
        ({"input": [{"role": "user", "content": "a", "x": 1}]}, "input[0].x", "unknown field"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].id", "not keep such item"),
        ({"previous_response_id": "a"}, "previous_response_id", "not keep such response"),
        ({"conversation": "a"}, "conversation", "unknown field"),
        ({"background": True}, "background", "does not support"),
        ({"truncation": "auto"}, "truncation", "does not support"),
        ({"include": ["message.output_text.logprobs"]}, "include", "does not support"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "one of text, json_object"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "is missing"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "does not support"),
        ({"text": {"format": {"type": "json_object"}}, "regex": "a"}, "regex", "only one of them"),
        ({"response_format": {"type": "json_object"}}, "response_format", "use text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "supports only 'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "is missing"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
         "tool_choice.name", "the name of one"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice", "expected none"),
        ({"max_output_tokens": 0}, "max_output_tokens", "from 1"),
        ({"store": 1}, "store", "true or false"),
        ({"n": 2}, "n", "unknown field"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_fields(fields, param, message):
    with refused(param, message):
        parse(**fields)


def test_the_store_forgets_what_was_not_used_for_long():
    def keep(name):
        store.keep(name, [{"role": "user", "content": "a" * 60}], [{"id": f"item-{name}"}])

    store = Store(limit=250)
    keep("a")
    keep("b")
    assert len(store.conversation("a")) == 2
    keep("c")
    for name in ("a", "c"):
        assert store.item(f"item-{name}", "here") == {"id": f"item-{name}"}
    for find in (lambda: store.conversation("b"), lambda: store.item("item-b", "here")):
        with pytest.raises(ApiError, match="does not keep such"):
            find()
    store.keep("d", [{"content": "a" * 300}], [])
    with pytest.raises(ApiError):
        store.conversation("d")


def test_the_store_keeps_nothing_that_no_body_could_have(monkeypatch):
    monkeypatch.setattr("dllama.server.apis.responses.store.MAX_VALUES", 9)
    store = Store()
    for name, values in (("few", 5), ("many", 9)):
        store.keep(name, [{"role": "user", "content": "a", "annotations": [0] * values}], [])
    assert len(store.conversation("few")) == 1
    with pytest.raises(ApiError, match="does not keep such response"):
        store.conversation("many")


def test_a_request_has_an_item_only_once():
    """A short one could become a very long conversation."""
    store = Store()
    store.keep("a", [], [{"type": "message", "role": "assistant", "id": "m", "content": "a" * 99}])
    given = {"type": "item_reference", "id": "m"}
    (message,) = parse_response({"input": [given]}, store).conversation.messages
    assert message == {"role": "assistant", "content": "a" * 99}
    with pytest.raises(ApiError, match=r"^input\[1\].id is 'm', expected an item that did not"):
        parse_response({"input": [given, given]}, store)


def test_an_error_ends_a_stream():
    """OpenAI's client looks into the field error, others at the event itself."""
    asked = parse()
    made = ResponseObject(
        asked, Store(), None, asked.conversation.options, [1], Answer(TextParser())
    )
    error = made.error(ApiError(503, "gone", code="unavailable"))
    assert (error["type"], error["message"], error["code"]) == ("error", "gone", "unavailable")
    assert error["error"] == {
        "type": "server_error", "message": "gone", "code": "unavailable", "param": None,
    }  # fmt: skip
    assert made.frame(error).startswith('event: error\ndata: {"type":"error"')
