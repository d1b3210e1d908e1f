"""Calls as Hermes and Qwen write them: JSON objects between <tool_call> and </tool_call>."""

from __future__ import annotations

from collections.abc import Sequence

from dllama.server.tools.base import (
    CallParser,
    Content,
    Function,
    Special,
    ToolFormat,
    call_rules,
    marked,
    quoted,
)
from dllama.server.tools.json_call import JsonCalls

OPEN, CLOSE = "<tool_call>", "</tool_call>"
OTHERS = ("<function=", "<arg_key>")  # between the same markers, but no JSON


class Hermes(ToolFormat):
    """<tool_call>, a line break, a JSON object, a line break, </tool_call>; any number of them."""

    markers = (OPEN, CLOSE)

    def recognises(self, source: str) -> bool:
        return OPEN in source and not any(marker in source for marker in OTHERS)

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return HermesParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        def call(function: Function, arguments: str) -> str:
            head = quoted(f'\n{{"name": "{function.name}", "arguments": ')
            return f"{head} {arguments} {quoted('}' + chr(10))} {special(CLOSE)}"

        lines = marked(special(OPEN), "call", several, quoted("\n"))
        return "\n".join([*lines, *call_rules(functions, call)])


class HermesParser(JsonCalls):
    """Text, and calls between markers. Spaces beside calls are no part of the text."""

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__(functions)
        self._spaces = ""  # before what comes next
        self._called = False

    def first(self) -> bool:
        """Take text up to a call."""
        text, marker = self.before((OPEN,))
        kept = len(text.rstrip())
        if kept:
            self.give(Content(self._spaces + text[:kept]))
            self._spaces = ""
        self._spaces += text[kept:]
        if marker:
            self.begin_call(self._after_call)
        elif self.ended and not self._called:
            self.give(Content(self._spaces))
            self._spaces = ""
        return marker is not None

    def _after_call(self, called: bool) -> None:
        """Go on after a call; what was none is text."""
        self._called |= called
        if called:
            self._spaces, self._step = "", self._close_marker
        else:
            self.give(Content(self._spaces + OPEN))
            self._spaces, self._step = "", self.first

    def _close_marker(self) -> bool:
        """Take spaces and the marker that closes a call."""
        self.held = self.held.lstrip()
        if self.may_begin(CLOSE):
            return False
        if self.held.startswith(CLOSE):
            self.take(len(CLOSE))
        self._step = self._skip
        return True

    def _skip(self) -> bool:
        """Take the spaces after a call."""
        self.held = self.held.lstrip()
        if self.held:
            self._step = self.first
        return bool(self.held)
