"""The body of a request to /v1/responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllama.sampling.grammar import GrammarText
from dllama.server.apis.responses.items import add_item, parse_input
from dllama.server.apis.responses.store import Items, Store
from dllama.server.apis.talk import Talk
from dllama.server.desk import Conversation
from dllama.server.fields.grammar import FORMATS, schema_text
from dllama.server.fields.json_object import Fields
from dllama.server.fields.options import MAX_TOKENS, fitting, take_options
from dllama.server.fields.template import take_variables
from dllama.server.fields.tools import Tools, offered, parse_choice, take_function
from dllama.server.problems import ApiError, shown

# A response repeats these fields.
REPEATED: dict[str, Any] = {
    "instructions": None, "max_output_tokens": None, "metadata": {}, "parallel_tool_calls": True,
    "previous_response_id": None, "reasoning": {"effort": None, "summary": None}, "store": True,
    "temperature": None, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
    "top_p": None, "truncation": "disabled", "user": None,
}  # fmt: skip
# What these ask for is never there, or they limit tools that are never there.
IGNORED = ("max_tool_calls", "prompt_cache_options", "client_metadata")
LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True)
class ResponseRequest:
    """A request.

    Attributes:
        conversation: what it asks for.
        items: all that the model gets, except for the instructions.
        store: whether later requests may go on with the response.
        repeated: fields of the request that are in the response, too.
    """

    conversation: Conversation
    items: Items
    store: bool
    repeated: dict[str, Any]


def parse_response(body: object, store: Store) -> ResponseRequest:
    """Parse a body; ApiError 400 if it is wrong."""
    fields = Fields(body)
    assert isinstance(body, dict)
    repeated = {
        name: default if body.get(name) is None else body[name]
        for name, default in REPEATED.items()
    }
    earlier, items, messages = _messages(fields, store)
    limit = fields.integer("max_output_tokens", 1, MAX_TOKENS)
    tools = _tools(fields)
    grammar = _format(fields.take("text"))
    variables = _variables(fields)
    stored = fields.boolean("store", True)
    _check_rest(fields)
    options = take_options(fields, limit, None)
    asked = Conversation(messages, fitting(options, grammar), variables, tools)
    return ResponseRequest(asked, earlier + items, stored, repeated)


def _messages(fields: Fields, store: Store) -> tuple[Items, Items, list[dict[str, Any]]]:
    """Take what the conversation consists of.

    Returns:
        Items of an earlier conversation that goes on, new items, and the messages of all.
    """
    talk = Talk()
    if (instructions := fields.text("instructions")) is not None:
        talk.say("system", instructions)
    previous = fields.text("previous_response_id")
    earlier = [] if previous is None else store.conversation(previous)
    for item in earlier:
        add_item(talk, item, "previous_response_id")
    items = parse_input(fields.take("input"), store)
    for index, item in enumerate(items):
        add_item(talk, item, f"input[{index}]")
    return earlier, items, talk.messages


def _check_rest(fields: Fields) -> None:
    """Take the fields that have only some values here, or none that matter."""
    include = fields.items("include", "a list of what is wanted")
    if LOGPROBS in include:
        raise ApiError(400, f"include is {shown(include)}, which this server does not support",
                       param="include", code="unsupported_value")  # fmt: skip
    fields.only("top_logprobs", [0])
    fields.only("truncation", ["disabled"])
    fields.only("background", [False])
    fields.only("response_format", [], ": use text.format instead")
    fields.ignore(IGNORED)
    obfuscation = fields.nested("stream_options")
    obfuscation.ignore(["include_obfuscation"])
    obfuscation.end()


def _tools(fields: Fields) -> Tools | None:
    """Take the functions that may be called."""
    given = fields.items("tools", "a list of functions")
    asked = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    choice = parse_choice(fields.take("tool_choice"), nested=False)
    return offered(asked, choice, fields.boolean("parallel_tool_calls", True))


def _tool(value: object, where: str) -> dict[str, Any]:
    fields = Fields(value, f"{where}.")
    fields.kind(["function"])
    made = take_function(fields, where)
    fields.end()
    return made


def _format(value: object) -> GrammarText | None:
    """Return what the field text asks for; None for any text."""
    if value is None:
        return None
    text = Fields(value, "text.")
    given = text.take("format")
    text.only("verbosity", ["medium"])
    text.end()
    if given is None:
        return None
    fields = Fields(given, "text.format.")
    kind = fields.word("type", FORMATS)
    schema = fields.given("schema") if kind == "json_schema" else None
    strict = fields.boolean("strict")
    fields.ignore(["name", "description"])
    fields.end()
    return None if kind == "text" else schema_text(schema, "text.format.schema", strict)


def _variables(fields: Fields) -> dict[str, Any]:
    """Take the variables of the chat template."""
    reasoning = fields.nested("reasoning")
    effort = reasoning.text("effort")
    reasoning.ignore(["summary", "generate_summary"])
    reasoning.end()
    return take_variables(fields, effort)
