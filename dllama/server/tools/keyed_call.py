"""Calls that have a marker before each argument, and values as plain text."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from dllama.server.tools.base import Arguments, Begin, Function, json_rule, quoted
from dllama.server.tools.marked_call import MarkedCalls
from dllama.server.tools.typed import TEXT, as_json, resolved, types

DEFINITIONS = frozenset(("$defs", "definitions"))


class KeyedCalls(MarkedCalls):
    """A parser of text with calls that have a marker before each argument.

    What is cut off stays incomplete JSON.

    Attributes:
        key: what comes before a value; its group is the key.
        key_begins: how that begins.
        border: what is at both ends of a value and no part of it.
        close: what comes after a value.
        last: what comes after the arguments.
    """

    key: re.Pattern[str]
    key_begins: str
    border: str
    close: str
    last: str

    def begin(self, name: str) -> None:
        """Read the arguments of a call next."""
        self.give(Begin(name))
        function = self.functions.get(name)
        self._schema = function.schema if function else {}
        self._count = 0
        self._step = self._read_key

    @abstractmethod
    def finish(self) -> None:
        """Go on after the end of the arguments."""

    def _read_key(self) -> bool:
        """Take a key, or the end of the arguments."""
        self.held = self.held.lstrip()
        if found := self.key.match(self.held):
            self.take(found.end())
            self.give(Arguments(("{" if self._count == 0 else ", ") + quoted(found[1]) + ": "))
            self._count += 1
            self._begin_value(found[1])
            return True
        if self.held.startswith(self.last):
            self.take(len(self.last))
            self.give(Arguments("}" if self._count else "{}"))
            self.finish()
            return True
        starts = (self.key_begins, self.last)
        if any(one.startswith(self.held) or self.held.startswith(one) for one in starts):
            return False
        at = self.held.find("<", 1)  # what is between two arguments is none of them
        self.take(at if at > 0 else len(self.held))
        return True

    def _begin_value(self, key: str) -> None:
        properties = resolved(self._schema, self._schema).get("properties")
        known = properties.get(key, {}) if isinstance(properties, dict) else {}
        self._types = types(known, self._schema)
        self._value = ""
        self._begun = False
        self._step = self._read_value

    def _read_value(self) -> bool:
        """Take some of a value. A string is passed on while it comes."""
        text, marker = self.before((self.close,))
        self._value += text
        if not self._begun and (self._value or marker):
            self._begun = True
            self._value = self._value.removeprefix(self.border)
            self.give(Arguments('"' if self._types == TEXT else ""))
        if marker:
            self._value = self._value.removesuffix(self.border)
            self._step = self._read_key
        if self._types == TEXT:
            self._give_string(whole=marker is not None)
        elif marker:
            self.give(Arguments(as_json(self._value, self._types)))
        return marker is not None

    def _give_string(self, whole: bool) -> None:
        """Pass on what is certain of a string."""
        kept = 0 if whole or not self._value.endswith(self.border) else len(self.border)
        end = len(self._value) - kept
        self.give(Arguments(quoted(self._value[:end])[1:-1] + ('"' if whole else "")))
        self._value = self._value[end:]


def keyed_rules(at: int, function: Function, parts: Sequence[str], close: str) -> list[str]:
    """Return rules of a grammar, of which "argumentsI" is all arguments of function I.

    Parts of calls are spelled as the grammar has them.

    Args:
        at: number of the function.
        function: the function.
        parts: what is before a key, between it and its value, and after the end of a value.
        close: the end of a value.
    """
    schema = resolved(function.schema, function.schema)
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    required = schema.get("required") or []
    before, between, after = parts
    lines, names = [], []
    for number, (key, value) in enumerate(properties.items()):
        name = f"value{at}_{number}"
        lines += _value_rules(name, value, function, close)
        argument = f"({before} {quoted(key)} {between} {name} {after})"
        names.append(argument if key in required else f"{argument}?")
    if schema.get("additionalProperties") is not False:
        lines += _until(f"other{at}", close)
        names.append(f"({before} /[^<>\\n]{{1,64}}/ {between} other{at} {after})*")
    return [f"arguments{at}: {' '.join(names) or quoted('')}", *lines]


def _value_rules(name: str, schema: Any, function: Function, close: str) -> list[str]:
    """Return the rule of a value and the marker after it."""
    root = function.schema
    choices = resolved(schema, root).get("enum")
    allowed = types(schema, root)
    if allowed == TEXT and choices:
        return [f"{name}: ({' | '.join(map(quoted, choices))}) {close}"]
    if "string" in allowed:
        return _until(name, close)
    whole = {**resolved(schema, root), **{key: root[key] for key in DEFINITIONS & root.keys()}}
    return [f"{name}: json_{name} {close}", json_rule(f"json_{name}", whole, function.lenient)]


def _until(name: str, close: str) -> list[str]:
    """Return a rule that is any text up to a marker, and that."""
    lazy = "" if close.startswith("<[") else "[lazy]"
    return [f"{name}{lazy}: /(.|\\n)*/ {close}"]
