"""The body of a request to /v1/messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dllama.sampling.grammar import GrammarText
from dllama.server.apis.anthropic.blocks import add_messages, add_system
from dllama.server.apis.talk import Talk
from dllama.server.desk import Conversation
from dllama.server.fields.grammar import schema_text
from dllama.server.fields.json_object import Fields, required
from dllama.server.fields.options import MAX_TOKENS, fitting, take_options, take_stops
from dllama.server.fields.template import take_variables
from dllama.server.fields.tools import Choice, Tools, offered, take_function

# These tell who asks, or how to bill, store, route or cache; or they let Anthropic's server shorten
# the conversation, which is never necessary.
IGNORED = (
    "cache_control", "context_management", "diagnostics", "inference_geo", "speed",
    "user_profile_id", "workspace_id",
)  # fmt: skip
TOOL_IGNORED = ("cache_control", "eager_input_streaming", "defer_loading", "allowed_callers")
CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
THINKING = {"enabled": {"enable_thinking": True}, "disabled": {"enable_thinking": False},
            "adaptive": {}}  # fmt: skip


def parse_message(body: object, limited: bool = True) -> Conversation:
    """Parse a body; ApiError 400 if it is wrong.

    Args:
        body: parsed JSON.
        limited: whether max_tokens has to be there; tokens are counted without it.
    """
    fields = Fields(body)
    talk = Talk(joined=("system", "user", "assistant"))
    add_system(talk, fields.take("system"))
    add_messages(talk, fields.take("messages"))
    limit = fields.integer("max_tokens", 1, MAX_TOKENS)
    if limit is None and limited:
        raise required("max_tokens")
    stops = take_stops(fields, "stop_sequences")
    tools = _tools(fields)
    effort, grammar = _output(fields)
    variables = _variables(fields, effort)
    fields.only("mcp_servers", [[]])
    fields.ignore(IGNORED)
    options = fitting(take_options(fields, limit, None), grammar)
    options = replace(options, stop=options.stop + stops)
    return Conversation(talk.messages, options, variables, tools, talk.begin)


def _tools(fields: Fields) -> Tools | None:
    """Take the functions that may be called."""
    given = fields.items("tools", "a list of functions")
    asked = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    choice, several = _choice(fields.take("tool_choice"))
    return offered(asked, choice, several)


def _tool(value: object, where: str) -> dict[str, Any]:
    fields = Fields(value, f"{where}.")
    fields.kind(["custom"], default="custom")
    made = take_function(fields, where, "input_schema")
    fields.only("input_examples", [[]])
    fields.ignore(TOOL_IGNORED)
    fields.end()
    return made


def _choice(value: object) -> tuple[Choice, bool]:
    """Return what tool_choice says, and whether there may be several calls."""
    if value is None:
        return Choice("auto"), True
    fields = Fields(value, "tool_choice.")
    kind = fields.word("type", CHOICES)
    name = fields.given_text("name") if kind == "tool" else None
    alone = fields.boolean("disable_parallel_tool_use")
    fields.ignore(["name"])
    fields.end()
    return Choice(CHOICES[kind], name, "tool_choice.name"), not alone


def _output(fields: Fields) -> tuple[str | None, GrammarText | None]:
    """Take what the answer is to be like: how much effort, and which JSON."""
    output = fields.nested("output_config")
    effort, given = output.text("effort"), output.take("format")
    output.end()
    name = "output_config.format"
    if (older := fields.take("output_format")) is not None:
        given, name = older, "output_format"
    if given is None:
        return effort, None
    form = Fields(given, f"{name}.")
    form.word("type", ["json_schema"])
    schema = form.given("schema")
    form.end()
    return effort, schema_text(schema, f"{name}.schema", strict=False)


def _variables(fields: Fields, effort: str | None) -> dict[str, Any]:
    """Take the variables of the chat template; how long the model thinks cannot be limited."""
    asked = take_variables(fields, effort)
    thinking = Fields(fields.take("thinking") or {"type": "adaptive"}, "thinking.")
    kind = thinking.word("type", THINKING)
    thinking.ignore(["budget_tokens", "display"])
    thinking.end()
    return {**THINKING[kind], **asked}
