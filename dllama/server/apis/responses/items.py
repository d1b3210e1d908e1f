"""The input of /v1/responses: items of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dllama.server.apis.responses.store import Items, Store
from dllama.server.apis.talk import Talk
from dllama.server.fields.json_object import Fields, required, wrong
from dllama.server.problems import ApiError, shown

ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text")


def parse_input(value: object, store: Store) -> Items:
    """Return the items of the field input, with items of earlier answers for their references."""
    if value is None:
        raise required("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise wrong("input", value, "a string or a list of at least one item")
    return [_resolved(item, f"input[{index}]", store) for index, item in enumerate(value)]


def _resolved(item: object, where: str, store: Store) -> dict[str, Any]:
    fields = Fields(item, f"{where}.")
    if fields.text("type") != "item_reference":
        assert isinstance(item, dict)
        return item
    name = fields.text("id")
    fields.end()
    if name is None:
        raise required(f"{where}.id")
    return store.item(name, f"{where}.id")


def add_item(talk: Talk, item: object, where: str) -> None:
    """Add an item to a conversation; ApiError 400 if it is wrong."""
    fields = Fields(item, f"{where}.")
    kind = fields.text("type") or "message"
    if kind not in KINDS:
        message = f"{where}.type is {shown(kind)}, this server supports only {', '.join(KINDS)}"
        raise ApiError(400, message, param=f"{where}.type", code="unsupported_value")
    KINDS[kind](talk, fields, where)
    fields.ignore(["id", "status"])
    fields.end()


def _message(talk: Talk, fields: Fields, where: str) -> None:
    role = fields.text("role")
    if role not in ROLES:
        raise wrong(f"{where}.role", role, f"one of {', '.join(ROLES)}")
    text = _text(fields.take("content"), f"{where}.content")
    fields.ignore(["phase"])
    talk.say("system" if role == "developer" else role, text)


def _call(talk: Talk, fields: Fields, where: str) -> None:
    name, call = fields.text("name"), fields.text("call_id")
    if name is None or call is None:
        raise required(f"{where}.{'name' if name is None else 'call_id'}")
    arguments = talk.arguments.parsed(fields.text("arguments"), f"{where}.arguments")
    talk.call(call, name, arguments)


def _output(talk: Talk, fields: Fields, where: str) -> None:
    call = fields.text("call_id")
    if call is None:
        raise required(f"{where}.call_id")
    talk.result(call, _text(fields.take("output"), f"{where}.output"))


def _reasoning(talk: Talk, fields: Fields, where: str) -> None:
    """Take thoughts: as text if it is there, else their summary."""
    said = [fields.take(name) for name in ("content", "summary")]
    parts: object = next((value for value in said if value), [])
    if not isinstance(parts, list):
        raise wrong(where, parts, "thoughts in a list of parts")
    fields.ignore(["encrypted_content"])
    texts = [_part(part, where, ("reasoning_text", "summary_text")) for part in parts]
    if any(texts):
        talk.think("\n\n".join(texts))


KINDS: dict[str, Callable[[Talk, Fields, str], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _reasoning,
}


def _text(value: object, where: str) -> str:
    """Return a text that may be split into parts."""
    if isinstance(value, str):
        return value
    if value is None:
        raise required(where)
    if not isinstance(value, list):
        raise wrong(where, value, "a string or a list of parts")
    return "".join(_part(part, f"{where}[{index}]", TEXTS) for index, part in enumerate(value))


def _part(value: object, where: str, kinds: tuple[str, ...]) -> str:
    fields = Fields(value, f"{where}.")
    kind, text = fields.text("type"), fields.text("text")
    if kind not in kinds:
        message = f"{where}.type is {shown(kind)}, this server supports only {' and '.join(kinds)}"
        raise ApiError(400, message, param=f"{where}.type", code="unsupported_value")
    if text is None:
        raise required(f"{where}.text")
    fields.ignore(["annotations", "logprobs", "prompt_cache_breakpoint"])
    fields.end()
    return text
