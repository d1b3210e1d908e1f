"""The messages of Anthropic's API, whose contents are blocks."""

from __future__ import annotations

from collections.abc import Callable

from dllama.server.apis.talk import Talk
from dllama.server.fields.json_object import Fields, required, wrong
from dllama.server.fields.messages import parse_part

# What Claude Code puts before its instructions. It is different in every request, so that no prompt
# would begin like an earlier one, and it tells the model nothing.
BILLING = "x-anthropic-billing-header:"
IGNORED = ("cache_control", "citations")


def add_system(talk: Talk, value: object) -> None:
    """Add the field system, a string or blocks."""
    for text in _texts(value, "system"):
        if not text.startswith(BILLING):
            talk.say("system", text)


def add_messages(talk: Talk, value: object) -> None:
    """Add the field messages."""
    if value is None:
        raise required("messages")
    if not isinstance(value, list) or not value:
        raise wrong("messages", value, "a list of at least one message")
    for index, item in enumerate(value):
        _add_message(talk, item, f"messages[{index}]")


def _add_message(talk: Talk, value: object, where: str) -> None:
    fields = Fields(value, f"{where}.")
    role, content = fields.word("role", BLOCKS), fields.given("content")
    fields.end()
    if isinstance(content, str):
        talk.say(role, content)
        return
    if not isinstance(content, list) or not content:
        raise wrong(f"{where}.content", content, "a string or a list of at least one block")
    for index, block in enumerate(content):
        _add_block(talk, role, block, f"{where}.content[{index}]")


def _add_block(talk: Talk, role: str, value: object, where: str) -> None:
    fields = Fields(value, f"{where}.")
    kind = fields.kind(BLOCKS[role], hint=f" in messages of the role {role}")
    if kind == "text":
        talk.say(role, fields.given_text("text"))
    else:
        OTHERS[kind](talk, fields, where)
    fields.ignore(IGNORED)
    fields.end()


def _call(talk: Talk, fields: Fields, where: str) -> None:
    name, call = fields.given_text("name"), fields.given_text("id")
    arguments = fields.take("input")
    if not isinstance(arguments, dict):
        raise wrong(f"{where}.input", arguments, "a JSON object")
    fields.ignore(["caller"])
    talk.call(call, name, arguments)


def _result(talk: Talk, fields: Fields, where: str) -> None:
    """Add the result of a call. That it is an error is not said: its text says so."""
    call = fields.given_text("tool_use_id")
    texts = _texts(fields.take("content"), f"{where}.content")
    fields.boolean("is_error")
    talk.result(call, "\n\n".join(texts))


def _thinking(talk: Talk, fields: Fields, where: str) -> None:
    fields.ignore(["signature"])
    talk.think(fields.given_text("thinking"))


def _secret(talk: Talk, fields: Fields, where: str) -> None:
    """Drop thoughts that only Anthropic's models can read."""
    fields.ignore(["data"])


OTHERS: dict[str, Callable[[Talk, Fields, str], None]] = {
    "tool_use": _call,
    "tool_result": _result,
    "thinking": _thinking,
    "redacted_thinking": _secret,
}
# What messages may have, by their roles.
BLOCKS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text",),
}


def _texts(value: object, where: str) -> list[str]:
    """Return the texts of a string or of blocks; none if the field is absent."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise wrong(where, value, "a string or a list of blocks")
    blocks = enumerate(value)
    return [parse_part(block, f"{where}[{at}]", ["text"], IGNORED) for at, block in blocks]
