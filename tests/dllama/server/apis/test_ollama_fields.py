"""The bodies of Ollama's API: what becomes of correct ones, and errors for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from refusals import refused
from tooling import CITY

from dllama import Token
from dllama.errors import TemplateError
from dllama.server.apis.ollama.catalogue import described, listed, named
from dllama.server.apis.ollama.format import ChatFormat
from dllama.server.apis.ollama.request import parse_chat, parse_generate, parse_show
from dllama.server.facts import Facts
from dllama.server.problems import ApiError
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Done
from dllama.server.served import Served
from dllama.server.tools.answer import Answer
from dllama.server.tools.base import Function
from dllama.server.tools.hermes import Hermes
from dllama.text.template import Begin

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": CITY}}
CALL = {"function": {"name": "f", "arguments": {"city": "Rome"}}}


def parse(**fields):
    return parse_chat({"messages": HELLO, **fields}).conversation


def test_messages():
    told = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Rain?", "images": None},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "wet", "tool_name": "f"},
        {"role": "tool", "content": "dry"},
        {"role": "tool", "content": "hot", "tool_call_id": "7"},
        {"role": "assistant", "content": "It rains."},
    ]
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Rome"}}}
    first, second = "call00000", "call00001"
    assert parse(messages=told).messages == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.",
         "tool_calls": [{"id": first, **call}, {"id": second, **call}]},
        {"role": "tool", "content": "wet", "tool_call_id": first, "name": "f"},
        {"role": "tool", "content": "dry", "tool_call_id": second, "name": "f"},
        {"role": "tool", "content": "hot", "tool_call_id": "7"},
        {"role": "assistant", "content": "It rains."},
    ]  # fmt: skip


def test_options():
    options = parse(
        model="m", keep_alive=-1,
        options={
            "num_predict": 5, "temperature": 1, "top_k": 7, "top_p": 0.5, "min_p": 0.1, "seed": 3,
            "repeat_penalty": 1.1, "repeat_last_n": -1, "stop": ["a"], "num_ctx": 9, "num_gpu": 1,
            "mirostat": 0, "typical_p": 1.0,
        },
    ).options  # fmt: skip
    assert options.sampling == {
        "temperature": 1.0, "top_k": 7, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1,
        "seed": 3,
    }  # fmt: skip
    assert (options.model, options.max_tokens, options.stop) == ("m", 5, ("a",))
    assert options.stream, "the default of this API"
    assert not parse(stream=False).options.stream
    for limit in (-1, -2, 0):
        assert parse(options={"num_predict": limit}).options.max_tokens is None
    assert parse(options={"seed": -1}).options.sampling == {}
    assert parse(tools=[TOOL]).tools.functions[0].name == "f"


def test_a_last_answer_goes_on():
    begun = [*HELLO, {"role": "assistant", "content": "It"}]
    assert (parse(messages=begun).begin, parse().begin) == (Begin.REST, Begin.NEXT)


def test_thinking_and_formats():
    assert parse(think=False).variables == {"enable_thinking": False}
    assert parse(think="low").variables == {"reasoning_effort": "low"}
    assert parse().variables == {}
    assert parse(format="").options.grammar is None
    assert parse(format="json").options.grammar.value == {"type": "object"}
    assert parse(format=CITY).options.grammar.value == CITY


def test_prompts():
    given = {"prompt": "Hello", "suffix": "", "template": "", "context": [], "images": []}
    assert parse_generate({**given, "system": "Be short."}).conversation.messages == [
        {"role": "system", "content": "Be short."}, *HELLO,
    ]  # fmt: skip
    assert parse_generate(given).raw == ""
    assert parse_generate({**given, "raw": True}).raw == "Hello"
    assert parse_generate({"model": "m"}).conversation.messages == []
    assert parse_show({"name": "m", "verbose": True}) == "m"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": {"a": 1}}, "messages", "a list of messages"),
        ({"messages": [{"role": "boss"}]}, "messages[0].role", "one of system"),
        ({"messages": [{**HELLO[0], "images": ["a"]}]}, "messages[0].images", "not support"),
        ({"messages": [{**HELLO[0], "x": 1}]}, "messages[0].x", "unknown field"),
        ({"messages": [{"role": "assistant", "tool_calls": {"a": 1}}]},
         "messages[0].tool_calls", "a list of calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
         "messages[0].tool_calls[0].function.name", "is missing"),
        ({"messages": [{"role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
         "messages[0].tool_calls[0].function.arguments", "a JSON object"),
        ({"options": {"mirostat": 1}}, "options.mirostat", "does not support"),
        ({"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}},
         "options.repeat_last_n", "expected -1"),
        ({"options": {"temprature": 1}}, "options.temprature", "unknown field"),
        ({"options": {"num_predict": "5"}}, "options.num_predict", "expected an integer"),
        ({"format": "xml"}, "format", "'json' or a JSON schema"),
        ({"think": "much"}, "think", "expected true, false"),
        ({"logprobs": True}, "logprobs", "does not support"),
        ({"regex": "a"}, "regex", "unknown field"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_chats(fields, param, message):
    with refused(param, message):
        parse(**fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"template": "{{ .Prompt }}"}, "template"), ({"context": [1]}, "context"),
     ({"suffix": "a"}, "suffix"), ({"images": ["a"]}, "images")],
)  # fmt: skip
def test_wrong_prompts(fields, param):
    with pytest.raises(ApiError, match="does not support") as found:
        parse_generate({"prompt": "a", **fields})
    assert found.value.param == param


@pytest.fixture
def served():
    return Served(
        "a", 0, 512, 2048, None, TemplateError("none"), {"top_k": 5}, facts=Facts("llama")
    )


def test_names(served):
    assert (listed(served), named("a:latest", served), named("b", served)) == ("a:latest", "a", "b")
    tagged = replace(served, name="a:1b")
    assert (listed(tagged), named("a:1b", tagged)) == ("a:1b", "a:1b")
    assert described(served)["capabilities"] == ["completion"]
    assert described(served)["parameters"] == "top_k 5"


@pytest.mark.parametrize(
    ("count", "text"), [(134_515_008, "134.52M"), (7_241_732_096, "7.2B"), (900, "900")]
)
def test_sizes(served, count, text):
    large = replace(served, facts=Facts("llama", parameters=count))
    assert described(large)["details"]["parameter_size"] == text


@pytest.mark.parametrize(
    ("weights", "text"), [("Q4K", "Q4_K"), ("Q80", "Q8_0"), ("IQ4NL", "IQ4_NL"), ("MXFP4", "MXFP4")]
)
def test_types_of_weights(served, weights, text):
    made = replace(served, facts=Facts("llama", weights=weights))
    assert described(made)["details"]["quantization_level"] == text


def test_what_becomes_of_an_answer(served):
    """A call that was cut has no arguments; an error ends a stream."""
    answer = Answer(Hermes().parser([Function("f", CITY)]), Hermes().call_id)
    made = ChatFormat(Exchange(), served, parse().options, [1], answer)
    cut = Token(1, '<tool_call>{"name": "f", "arguments": {"ci')
    (call,) = made.whole([cut], Done("length"))["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": {}}
    assert made.frame(made.error(ApiError(503, "gone"))) == '{"error":"gone"}\n'
