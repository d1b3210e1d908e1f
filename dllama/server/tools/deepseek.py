"""Calls as DeepSeek V3, R1 and V3.1 write them: JSON objects between markers of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from dllama.server.tools.base import (
    Begin,
    CallParser,
    Function,
    Special,
    ToolFormat,
    call_rules,
    marked,
    quoted,
)
from dllama.server.tools.json_call import JsonArguments
from dllama.server.tools.marked_call import MarkedCalls

OPEN, CLOSE = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
CALL, CALL_END = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
SEPARATOR = "<\uff5ctool\u2581sep\uff5c>"
FENCE = "```json"
HEAD = re.compile(r"\s*(?:([^\s{`]+)\s*)?(?:```(?:json)?\s*)?(?=\{)")


class DeepSeek(ToolFormat):
    """V3.1 has the name before the separator; V3 and R1 have it after, and the JSON in a fence."""

    markers = (OPEN, CLOSE, CALL, CALL_END, SEPARATOR)

    def recognises(self, source: str) -> bool:
        return OPEN in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return DeepSeekParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        separator = special(SEPARATOR)

        def newer(function: Function, arguments: str) -> str:
            return f"{quoted(function.name)} {separator} {arguments}"

        def older(function: Function, arguments: str) -> str:
            head = quoted(f"{function.name}\n{FENCE}\n")
            return f'"function" {separator} {head} {arguments} {quoted(chr(10) + "```")}'

        fenced = FENCE in source
        one = f"{special(CALL)} call {special(CALL_END)}"
        between = quoted("\n") if fenced else ""
        more = f"({between} {one})*" if several else ""
        lines = marked(special(OPEN), f"{one} {more} {special(CLOSE)}", several=False)
        return "\n".join([*lines, *call_rules(functions, older if fenced else newer)])

    def example(self, source: str) -> str:
        """Return a call. DeepSeek's own templates show no functions."""
        arguments = '{"KEY": "VALUE"}'
        call = f"NAME{SEPARATOR}{arguments}"
        if FENCE in source:
            call = f"function{SEPARATOR}NAME\n{FENCE}\n{arguments}\n```"
        return f"{OPEN}{CALL}{call}{CALL_END}{CLOSE}"

    def history(self, messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
        """Return messages whose calls have arguments as text, and no content if that is empty."""
        return [
            {
                **message,
                "content": message["content"] or None,
                "tool_calls": [_as_text(call) for call in message["tool_calls"]],
            }
            if "tool_calls" in message
            else message
            for message in messages
        ]


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


class DeepSeekParser(MarkedCalls, JsonArguments):
    """Text up to the first marker, then calls, then text again."""

    opens = (OPEN, CALL)

    def opened(self, marker: str) -> None:
        self._step = self._between if marker == OPEN else self._read_kind

    def _between(self) -> bool:
        """Drop what is between two calls."""
        _, marker = self.before((CALL, CLOSE))
        if marker == CLOSE:
            self.closed()
        elif marker:
            self._step = self._read_kind
        return marker is not None

    def _read_kind(self) -> bool:
        """Take what is before the separator."""
        kind, separator, rest = self.held.partition(SEPARATOR)
        if separator:
            self._kind, self.held = kind.strip(), rest
            self._step = self._read_head
        return bool(separator)

    def _read_head(self) -> bool:
        """Take what is before the arguments, which may have the name."""
        found = HEAD.match(self.held)
        if found:
            self.take(found.end())
            self.give(Begin(found[1] or self._kind))
            self.begin_arguments(self._between)
        return found is not None
