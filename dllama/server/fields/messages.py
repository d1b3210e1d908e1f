"""The messages of a chat request, as chat templates want them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dllama.server.fields.json_object import Fields, required, wrong
from dllama.server.http.body import MAX_VALUES, Values
from dllama.server.problems import ApiError

ROLES = ("system", "developer", "user", "assistant", "tool")


def parse_messages(value: object) -> list[dict[str, Any]]:
    """Parse the field messages; ApiError 400 if it is wrong.

    Returns:
        Messages with "role" and "content", which is text. Those with calls have "tool_calls", whose
        arguments are objects, as templates of transformers expect. Answers have "reasoning_content"
        if it or "reasoning" was given. Messages of the role tool have "tool_call_id" if it was
        given, and "name" if it or the call is known.
    """
    if value is None:
        raise required("messages")
    if not isinstance(value, list) or not value:
        raise wrong("messages", value, "a list of at least one message")
    messages: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # functions by the ids of calls
    arguments = Arguments()
    for index, item in enumerate(value):
        message = _message(item, f"messages[{index}]", arguments)
        for call in message.get("tool_calls", ()):
            called[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and message.get("tool_call_id") in called:
            message.setdefault("name", called[message["tool_call_id"]])
        messages.append(message)
    return messages


def _message(value: object, where: str, arguments: Arguments) -> dict[str, Any]:
    fields = Fields(value, f"{where}.")
    role = fields.word("role", ROLES)
    made: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls: list[dict[str, Any]] = []
    if role == "assistant":
        calls = _calls(fields.take("tool_calls"), f"{where}.tool_calls", arguments)
    content = fields.take("content")
    silent = content is None and calls
    made["content"] = "" if silent else parse_content(content, f"{where}.content")
    if calls:
        made["tool_calls"] = calls
    if role == "assistant":
        thought, other = fields.text("reasoning_content"), fields.text("reasoning")
        if (thought or other) is not None:
            made["reasoning_content"] = thought or other
    if role == "tool":
        given = {name: fields.text(name) for name in ("tool_call_id", "name")}
        made |= {name: text for name, text in given.items() if text}
    for name in ("tool_calls", "function_call", "audio"):
        fields.only(name, [[]])
    fields.ignore(["name", "refusal", "tool_call_id", "annotations"])
    fields.end()
    return made


def _calls(value: object, where: str, arguments: Arguments) -> list[dict[str, Any]]:
    """Return the calls of an answer."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(where, value, "a list of calls")
    return [_call(call, f"{where}[{index}]", arguments) for index, call in enumerate(value)]


def _call(value: object, where: str, arguments: Arguments) -> dict[str, Any]:
    fields = Fields(value, f"{where}.")
    fields.kind(["function"], default="function")
    name = fields.text("id")
    function = Fields(fields.given("function"), f"{where}.function.")
    fields.ignore(["index"])
    fields.end()
    called = function.text("name")
    if not called:
        raise required(f"{where}.function.name")
    text = function.text("arguments")
    function.end()
    parsed = arguments.parsed(text, f"{where}.function.arguments")
    made = {"name": called, "arguments": parsed}
    return {"id": name or "", "type": "function", "function": made}


class Arguments:
    """The arguments of all calls of a request: JSON in texts of JSON.

    They may have as many values as a body may have outside of texts, for the same reason.
    """

    def __init__(self) -> None:
        self._values = Values()

    def parsed(self, text: str | None, where: str) -> dict[str, Any]:
        """Parse those of a call; ApiError 400 if they are no JSON object, 413 if all are too many.

        A text without a closing quote cannot hide values of the next ones: it is no JSON.
        """
        text = text or "{}"
        self._values.add(text.encode(errors="replace"))
        if self._values.count > MAX_VALUES:
            message = f"the arguments of the calls have more than {MAX_VALUES} values"
            raise ApiError(413, message, param=where, code="body_too_long")
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise wrong(where, text, "a JSON object as a string")
        return parsed


def parse_content(
    value: object, where: str, kinds: Sequence[str] = ("text",), ignored: Sequence[str] = ()
) -> str:
    """Return the text of a message, which may be split into parts; ApiError 400.

    Args:
        value: of the field.
        where: the field.
        kinds: what parts may be.
        ignored: fields of parts that do not matter.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise required(where)
    if not isinstance(value, list):
        raise wrong(where, value, "a string or a list of parts")
    parts = enumerate(value)
    return "".join(parse_part(part, f"{where}[{at}]", kinds, ignored) for at, part in parts)


def parse_part(value: object, where: str, kinds: Sequence[str], ignored: Sequence[str] = ()) -> str:
    """Return the text of a part; arguments and errors are those of `parse_content`."""
    fields = Fields(value, f"{where}.")
    fields.kind(kinds)
    text = fields.given_text("text")
    fields.ignore(ignored)
    fields.end()
    return text
