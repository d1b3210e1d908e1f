"""Calls as Hermes and Qwen write them: JSON objects between <tool_call> and </tool_call>."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dllama.server.tools.base import (
    Arguments,
    Begin,
    CallParser,
    Function,
    Special,
    ToolFormat,
    call_rules,
    marked,
    object_call,
    quoted,
)
from dllama.server.tools.json_call import JsonCalls, ObjectEnd, parsed
from dllama.server.tools.marked_call import MarkedCalls

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FENCES = ("```json", "```", "<tools>")
BLOCK = re.compile(r"\s*(?:```(?:json)?|<tools>)?\s*(\{.*\})\s*(?:```|</tools>)?\s*", re.DOTALL)


class Hermes(ToolFormat):
    """<tool_call>, a line break, a JSON object, a line break, </tool_call>; any number of them."""

    markers = (OPEN, CLOSE)
    closing = (CLOSE,)

    def recognises(self, source: str) -> bool:
        return OPEN in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return HermesParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        section = f"{quoted(chr(10))} call {quoted(chr(10))} {special(CLOSE)}"
        names = "|".join(re.escape(function.name) for function in functions)
        block = f'\\s*(```(json)?\\s*)?\\{{"name": "({names})"(.|\\n)*'
        more = '("\\n" call)*' if several else ""
        ending = '"\\n"?' if several else ""
        return "\n".join(
            [
                *marked(special(OPEN), section, several, quoted("\n"), "FREE", "block"),
                f"FREE: TEXT & ~/{block}/",
                f'block: "```json\\n" call {more} "\\n```" | call {more} {ending}',
                *call_rules(functions, object_call),
            ]
        )


class HermesParser(MarkedCalls, JsonCalls):
    """Text, and calls between markers.

    Qwen2.5-Coder likes to answer with objects of JSON alone, or in a block of code. If they are
    the whole answer and have names of functions, they are calls, too.
    """

    opens = (OPEN,)

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__(functions)
        self._step = self._block

    def opened(self, marker: str) -> None:
        self.begin_call(self._after_call)

    def _after_call(self, called: bool) -> None:
        if called:
            self._step = self._close_marker
        else:
            self.was_none(OPEN)

    def _close_marker(self) -> bool:
        return self.close_with(CLOSE)

    def _block(self) -> bool:
        """Wait for the end of an answer that may be a block with calls."""
        if not self.ended and self._may_be_block():
            return False
        found = BLOCK.fullmatch(self.held) if self.ended else None
        for name, arguments in self._calls(found[1]) if found else ():
            self.held = ""
            self.give(Begin(name))
            self.give(Arguments(arguments))
        self._step = self.first
        return True

    def _calls(self, text: str) -> list[tuple[str, str]]:
        """Return the calls in a text of JSON objects; [] if there is anything else."""
        calls: list[tuple[str, str]] = []
        while text:
            end = ObjectEnd().find(text) if text.startswith("{") else None
            call = self.whole(parsed(text[:end] if end else text + "}"))  # one brace is forgiven
            if call is None or call[0] not in self.functions:
                return []
            calls.append(call)
            text = text[end:].lstrip(" \r\n,;") if end else ""
        return calls

    def _may_be_block(self) -> bool:
        """Whether all that came may be the beginning of a block with a call."""
        rest = self.held.lstrip()
        if any(fence.startswith(rest) for fence in FENCES):
            return True
        fence = next((fence for fence in FENCES if rest.startswith(fence)), "")
        head = "".join(rest[len(fence) :].split())
        starts = [f'{{"name":"{name}"' for name in self.functions]
        return any(head.startswith(start) or start.startswith(head) for start in starts)
