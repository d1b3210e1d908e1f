"""Calls that are JSON objects: {"name": ..., "arguments": {...}}, as they stream."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from dllama.server.tools.base import Arguments, Begin, CallParser, Content

STRING = r'"(?:[^"\\]|\\.)*"'
# What begins an object whose arguments can be passed on while they come.
HEAD = re.compile(
    rf'\s*\{{\s*"name"\s*:\s*({STRING})\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)'
)
KEYS = ("arguments", "parameters")


class ObjectEnd:
    """Finds the end of a JSON object or array whose text comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """Return how many characters of the next piece belong to it; None if all and more do."""
        for at, char in enumerate(text):
            if self._in_string:
                self._in_string = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None


class JsonArguments(CallParser):
    """A parser of calls whose arguments are a JSON object, which is passed on as it comes."""

    def begin_arguments(self, after: Callable[[], bool]) -> None:
        """Read arguments next, with which `held` begins, and then go on with another step."""
        self._end = ObjectEnd()
        self._then = after
        self._step = self._read_arguments

    def _read_arguments(self) -> bool:
        end = self._end.find(self.held)
        self.give(Arguments(self.take(len(self.held) if end is None else end)))
        if end is not None:
            self._step = self._then
        return end is not None


class JsonCalls(JsonArguments):
    """A parser of calls that are JSON objects."""

    def rest(self) -> bool:
        """Take all that comes as text."""
        self.give(Content(self.take(len(self.held))))
        return False

    def begin_call(self, after: Callable[[bool], None]) -> None:
        """Read a call next. `held` begins with an object, or with spaces before it.

        Args:
            after: called after it with whether it was one. If not, `held` is as it was.
        """
        self._after = after
        self._step = self._read_object

    def _read_object(self) -> bool:
        """Take the name, or the whole object if the arguments do not come after that."""
        head = HEAD.match(self.held)
        name = parsed(head[1]) if head else None
        if head and isinstance(name, str) and self.is_function(name):
            self.take(head.end())
            self.give(Begin(name))
            self.begin_arguments(self._close)
            return True
        spaces = len(self.held) - len(self.held.lstrip())
        rest = self.held[spaces:]
        end = ObjectEnd().find(rest) if rest.startswith("{") else 0 if rest else None
        if end is None and not self.ended:
            return False
        call = self.whole(parsed(rest[:end]))
        if call:
            self.take(spaces + (end or 0))
            self.give(Begin(call[0]))
            self.give(Arguments(call[1]))
        self._after(call is not None)
        return True

    def _close(self) -> bool:
        """Take what follows the arguments, up to the brace that closes the call."""
        rest = self.held.lstrip()
        if not rest and not self.ended:
            return False
        at = self.held.find("}") if rest[:1] in ("}", ",") else None
        if at == -1 and not self.ended:
            return False
        if at is not None:
            self.take(len(self.held) if at < 0 else at + 1)
        self._after(True)
        return True

    def is_function(self, name: str) -> bool:
        """Whether a name makes an object a call."""
        return bool(name)

    def whole(self, value: Any) -> tuple[str, str] | None:
        """Return name and arguments of a call; None if a value is none."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        if not self.is_function(value["name"]):
            return None
        found: Any = next((value[key] for key in KEYS if key in value), {})
        if isinstance(found, str) and isinstance(parsed(found), dict):
            return value["name"], found
        return value["name"], json.dumps(found or {}, ensure_ascii=False)


def parsed(text: str) -> Any:
    """Return the value of a text of JSON; None if it is broken."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
