"""Calls as GLM-4.5 and later write them: a name, then <arg_key> and <arg_value> in turn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dllama.server.tools.base import CallParser, Function, Special, ToolFormat, marked, quoted
from dllama.server.tools.keyed_call import KeyedCalls, keyed_rules

OPEN, CLOSE = "<tool_call>", "</tool_call>"
KEY, KEY_END, VALUE, VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
NAME = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(?=<arg_key>|</tool_call>)")
BREAK = '"\\n"?'  # GLM-4.5 has line breaks, GLM-4.7 has none


class Glm(ToolFormat):
    """Values are text or JSON, as the type of the argument is."""

    markers = (OPEN, CLOSE, KEY, KEY_END, VALUE, VALUE_END)
    closing = (CLOSE,)

    def recognises(self, source: str) -> bool:
        return KEY in source and VALUE in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return GlmParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        between = f"{special(KEY_END)} {BREAK} {special(VALUE)}"
        parts = (special(KEY), between, BREAK)
        calls = " | ".join(
            f"{quoted(function.name)} {BREAK} arguments{at}"
            for at, function in enumerate(functions)
        )
        lines = marked(special(OPEN), "call", several, BREAK)
        lines.append(f"call: ({calls}) {special(CLOSE)}")
        for at, function in enumerate(functions):
            lines += keyed_rules(at, function, parts, special(VALUE_END))
        return "\n".join(lines)


class GlmParser(KeyedCalls):
    """A marker that no name follows is text."""

    opens = (OPEN,)
    key = re.compile(r"<arg_key>\s*([^<]*?)\s*</arg_key>\s*<arg_value>")
    key_begins, border, close, last = KEY, "", VALUE_END, CLOSE

    def opened(self, marker: str) -> None:
        self._step = self._read_name

    def finish(self) -> None:
        self.closed()

    def _read_name(self) -> bool:
        """Take the name of the function."""
        if found := NAME.match(self.held):
            self.take(found.end())
            self.begin(found[1])
            return True
        name, bracket, rest = self.held.partition("<")
        begun = bracket + rest
        may_end = KEY.startswith(begun) or CLOSE.startswith(begun)
        if not self.ended and len(name.split()) < 2 and may_end:
            return False
        self.was_none(OPEN)
        return True
