"""Answers in parts: what becomes of thoughts, texts, calls and white space between them."""

from __future__ import annotations

import pytest

from dllama import TemplateError, Token
from dllama.server.apis.anthropic.format import MessageFormat
from dllama.server.apis.ollama.format import ChatFormat
from dllama.server.apis.responses.format import ResponseObject
from dllama.server.apis.responses.request import parse_response
from dllama.server.apis.responses.store import Store
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Done
from dllama.server.served import Served
from dllama.server.tools.answer import Tally

FUNCTION = {"name": "f", "arguments": ""}
DELTAS = [
    {"reasoning_content": "\n"},
    {"reasoning_content": "It may "},
    {"reasoning_content": "rain."},
    {"content": "\n\n"},
    {"content": " Wait."},
    {"content": "\n"},
    {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": FUNCTION}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": '}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    {"content": "\n"},
]


class Said:
    """Stands for an answer: each token brings one delta, in the order of a list."""

    def __init__(self, deltas):
        self.tally = Tally()
        self._deltas = iter(deltas)

    def push(self, text):
        return [next(self._deltas)]

    def end(self):
        return []


@pytest.fixture
def formats():
    """formats(deltas): a response of each API to an answer of these deltas."""
    served = Served("a", 0, 512, 2048, None, TemplateError("none"))
    asked = parse_response({"input": "a"}, Store())
    options = asked.conversation.options

    def make(deltas):
        return [
            ResponseObject(asked, Store(), served, options, [1], Said(deltas)),
            MessageFormat((), served, options, [1], Said(deltas)),
            ChatFormat(Exchange(), served, options, [1], Said(deltas)),
        ]

    return make


def whole(made, count):
    return made.whole([Token(1, "")] * count, Done("stop", 0, count, 1))


def streamed(made, count):
    pieces = [value for _ in range(count) for value in made.piece(Token(1, ""))]
    return [*made.opening(), *pieces, *made.closing(Done("stop", 0, count, 1))]


def test_whole_answers(formats):
    response, message, chat = (whole(made, len(DELTAS)) for made in formats(DELTAS))
    thought, text, call = response["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "\nIt may rain."}]
    assert text["content"][0]["text"] == "\n\n Wait.\n"
    assert (call["name"], call["call_id"], call["arguments"]) == ("f", "1", '{"a": 1}')
    assert message["content"] == [
        {"type": "thinking", "thinking": "\nIt may rain.", "signature": ""},
        {"type": "text", "text": "\n\n Wait.\n"},
        {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
    ]
    assert message["stop_reason"] == "tool_use"
    assert chat["message"] == {
        "role": "assistant", "content": "\n\n Wait.\n", "thinking": "\nIt may rain.",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}],
    }  # fmt: skip


def test_streams_have_the_same_parts(formats):
    response, message, chat = (streamed(made, len(DELTAS)) for made in formats(DELTAS))
    summary = [event for event in response if "reasoning_summary" in event["type"]]
    assert [event["type"].rpartition("reasoning_summary_")[2] for event in summary] == [
        "part.added", "text.delta", "text.delta", "text.done", "part.done",
    ]  # fmt: skip
    assert summary[3]["text"] == "\nIt may rain."
    added = [event["output_index"] for event in response if "item.added" in event["type"]]
    assert added == [0, 1, 2]
    kinds = [event["delta"]["type"] for event in message if event["type"] == "content_block_delta"]
    assert kinds == [
        "thinking_delta", "thinking_delta", "signature_delta", "text_delta", "text_delta",
        "input_json_delta", "input_json_delta",
    ]  # fmt: skip
    pieces = [piece["message"] for piece in chat]
    assert "".join(piece.get("thinking", "") for piece in pieces) == "\nIt may rain."
    assert [len(piece.get("tool_calls", ())) for piece in pieces] == [0] * 4 + [1, 0]


def test_streams_that_wait(formats):
    """A client hears of the response at once, and something new whenever it has to wait."""
    response, message, chat = formats([])
    assert ["event: response.created" in response.wait() for _ in range(2)] == [True, False]
    assert "event: response.in_progress" in response.wait()
    assert ["event: message_start" in message.wait() for _ in range(2)] == [True, False]
    assert message.wait() == 'event: ping\ndata: {"type":"ping"}\n\n'
    assert '"content":""},"done":false}' in chat.wait()
    assert [made.opening() for made in (response, message, chat)] == [[], [], []]


def test_white_space_alone_is_a_text(formats):
    response, message, chat = (whole(made, 2) for made in formats([{"content": "\n"}] * 2))
    assert response["output"][0]["content"][0]["text"] == "\n\n"
    assert message["content"] == [{"type": "text", "text": "\n\n"}]
    assert chat["message"]["content"] == "\n\n"
    empty, *_ = formats([{}])
    assert whole(empty, 1)["output"] == []
