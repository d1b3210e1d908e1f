"""The input of /v1/responses: items of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dllama.server.apis.responses.store import Items, Store
from dllama.server.apis.talk import Talk
from dllama.server.fields.json_object import Fields, required, wrong
from dllama.server.fields.messages import parse_content, parse_part

ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text")
THOUGHTS = ("reasoning_text", "summary_text")
IGNORED = ("annotations", "logprobs", "prompt_cache_breakpoint")  # of parts


def parse_input(value: object, store: Store) -> Items:
    """Return the items of the field input, with items of earlier answers for their references."""
    if value is None:
        raise required("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise wrong("input", value, "a string or a list of at least one item")
    taken: set[str] = set()
    return [_resolved(item, f"input[{index}]", store, taken) for index, item in enumerate(value)]


def _resolved(item: object, where: str, store: Store, taken: set[str]) -> dict[str, Any]:
    """Return an item, or the one that it refers to.

    A request has an item only once, so that a short one cannot become a very long conversation.
    """
    fields = Fields(item, f"{where}.")
    if fields.text("type") != "item_reference":
        assert isinstance(item, dict)
        return item
    name = fields.given_text("id")
    fields.end()
    if name in taken:
        raise wrong(f"{where}.id", name, "an item that did not come before")
    taken.add(name)
    return store.item(name, f"{where}.id")


def add_item(talk: Talk, item: object, where: str) -> None:
    """Add an item to a conversation; ApiError 400 if it is wrong."""
    fields = Fields(item, f"{where}.")
    KINDS[fields.kind(KINDS, default="message")](talk, fields, where)
    fields.ignore(["id", "status"])
    fields.end()


def _message(talk: Talk, fields: Fields, where: str) -> None:
    role = fields.word("role", ROLES)
    text = parse_content(fields.take("content"), f"{where}.content", TEXTS, IGNORED)
    fields.ignore(["phase"])
    talk.say("system" if role == "developer" else role, text)


def _call(talk: Talk, fields: Fields, where: str) -> None:
    name, call = fields.given_text("name"), fields.given_text("call_id")
    arguments = talk.arguments.parsed(fields.text("arguments"), f"{where}.arguments")
    talk.call(call, name, arguments)


def _output(talk: Talk, fields: Fields, where: str) -> None:
    call = fields.given_text("call_id")
    text = parse_content(fields.take("output"), f"{where}.output", TEXTS, IGNORED)
    talk.result(call, text)


def _reasoning(talk: Talk, fields: Fields, where: str) -> None:
    """Take thoughts: as text if it is there, else their summary."""
    said = [fields.take(name) for name in ("content", "summary")]
    parts: object = next((value for value in said if value), [])
    if not isinstance(parts, list):
        raise wrong(where, parts, "thoughts in a list of parts")
    fields.ignore(["encrypted_content"])
    texts = [parse_part(part, where, THOUGHTS, IGNORED) for part in parts]
    if any(texts):
        talk.think("\n\n".join(texts))


KINDS: dict[str, Callable[[Talk, Fields, str], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _reasoning,
}
