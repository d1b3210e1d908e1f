"""Calls as Mistral writes them, after [TOOL_CALLS]."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dllama.server.tools.base import (
    Begin,
    CallParser,
    Content,
    Function,
    Special,
    ToolFormat,
    call_rules,
    marked,
    object_call,
    quoted,
    short_id,
)
from dllama.server.tools.json_call import JsonCalls

OPEN, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
NAME = re.compile(r"\s*([A-Za-z0-9_.-]+)(?:\[CALL_ID\][^\[{]*)?\s*(?:\[ARGS\])?\s*(?=\{)")


class Mistral(ToolFormat):
    """Older models write one list of JSON objects, newer ones NAME[ARGS]{...} after each marker."""

    markers = (OPEN, ID, ARGUMENTS)

    def recognises(self, source: str) -> bool:
        return OPEN in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return MistralParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        def newer(function: Function, arguments: str) -> str:
            return f"{quoted(function.name)} {special(ARGUMENTS)} {arguments}"

        if ARGUMENTS in source:
            lines = marked(special(OPEN), "call", several)
            return "\n".join([*lines, *call_rules(functions, newer)])
        more = ' (", " call)*' if several else ""
        lines = marked(special(OPEN), f'" "? "[" call{more} "]"', several=False)
        return "\n".join([*lines, *call_rules(functions, object_call)])

    def call_id(self) -> str:
        """Return an id as the templates want it: nine letters and digits."""
        return short_id()


class MistralParser(JsonCalls):
    """Text up to the first marker, then calls."""

    def first(self) -> bool:
        """Take text up to the calls."""
        text, marker = self.before((OPEN,))
        self.give(Content(text))
        if marker:
            self._step = self._which
        return marker is not None

    def _which(self) -> bool:
        """Find out in which style the next call is."""
        self.held = self.held.lstrip()
        if self.held.startswith(("[", "{", ",", "]")):
            if self.may_begin(OPEN):
                return False
            if self.held.startswith(OPEN):
                self.take(len(OPEN))
                return True
            if not self.held.startswith("{"):
                self.take(1)
                return True
            self.begin_call(self._after_object)
            return True
        if match := NAME.match(self.held):
            self.take(match.end())
            self.give(Begin(match[1]))
            self.begin_arguments(self._which)
            return True
        if self.ended:
            self.give(Content(self.take(len(self.held))))
        return False

    def _after_object(self, called: bool) -> None:
        self._step = self._which if called else self.rest
