"""Bodies with a wrong value anywhere are parsed or refused by an ApiError, never by a fault."""

from __future__ import annotations

import copy
from functools import partial

import pytest
from tooling import CITY

from dllama import TemplateError
from dllama.server.apis.anthropic.request import parse_message
from dllama.server.apis.embeddings import parse_embeddings
from dllama.server.apis.ollama.embed import parse_embed
from dllama.server.apis.ollama.request import parse_chat, parse_generate
from dllama.server.apis.responses.request import parse_response
from dllama.server.apis.responses.store import Store
from dllama.server.facts import Facts
from dllama.server.problems import ApiError
from dllama.server.served import Served

FUNCTION = {"name": "f", "parameters": CITY}
RESPONSE = {
    "model": "m", "instructions": "a", "max_output_tokens": 5, "include": ["a"], "stream": True,
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "a"},
    ],
    "tools": [{"type": "function", **FUNCTION}], "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "schema": CITY}}, "reasoning": {"effort": "low"},
    "stream_options": {"include_obfuscation": True}, "parallel_tool_calls": True,
}  # fmt: skip
MESSAGE = {
    "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "a"}], "top_k": 4,
    "messages": [
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "a", "signature": ""},
            {"type": "tool_use", "id": "1", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "a"}]},
    ],
    "tools": [{"name": "f", "input_schema": CITY}], "tool_choice": {"type": "tool", "name": "f"},
    "thinking": {"type": "enabled", "budget_tokens": 5}, "stop_sequences": ["a"],
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": CITY}},
}  # fmt: skip
CHAT = {
    "model": "m", "stream": False, "format": "json", "think": True,
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "thinking": "a", "tool_calls": [
            {"function": {"name": "f", "arguments": {"city": "a"}}},
        ]},
        {"role": "tool", "content": "a", "tool_name": "f"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "options": {"num_predict": 5, "stop": ["a"], "repeat_penalty": 1.1, "repeat_last_n": -1},
}  # fmt: skip
PROMPT = {"model": "m", "prompt": "a", "system": "a", "raw": True, "suffix": "", "format": CITY}
SERVED = Served("m", 0, 9, 9, None, TemplateError("none"), facts=Facts(width=4))
VECTORS = {"model": "m", "input": ["a", [5]], "pooling": "last", "dimensions": 4}
EMBED = {"model": "m", "input": ["a", "b"], "dimensions": 4, "truncate": True}
WRONG = [None, True, -1, 10**400, "\ud800", [], {}, [None], {"type": ["a"]}, {"type": "text"}]


def places(value, place=()):
    """Where the values of a JSON value are, its own place first."""
    yield place
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def changed(body, place, value):
    """A copy of a body with another value in a place."""
    if not place:
        return value
    made = copy.deepcopy(body)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return made


def refusal(parse, body):
    """The error of a body; None if it is right."""
    try:
        parse(body)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("parse", "body"),
    [(partial(parse_response, store=Store()), RESPONSE), (parse_message, MESSAGE),
     (parse_chat, CHAT), (parse_generate, PROMPT), (partial(parse_embeddings, SERVED), VECTORS),
     (partial(parse_embed, SERVED), EMBED)],
    ids=["responses", "messages", "chat", "generate", "embeddings", "embed"],
)  # fmt: skip
def test_wrong_values_anywhere(parse, body):
    assert refusal(parse, body) is None
    bodies = [changed(body, place, value) for place in places(body) for value in WRONG]
    errors = [error for one in bodies if (error := refusal(parse, one))]
    assert {error.status for error in errors} == {400}
    assert len(errors) > len(bodies) / 3
    "".join(map(str, errors)).encode()
