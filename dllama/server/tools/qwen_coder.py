"""Calls as Qwen3-Coder and Qwen3.5 write them: <function=NAME> with <parameter=KEY> inside."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dllama.server.tools.base import CallParser, Function, Special, ToolFormat, marked, quoted
from dllama.server.tools.keyed_call import KeyedCalls, keyed_rules

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, END, PARAMETER = "<function=", "</function>", "<parameter="
VALUE_END = "</parameter>"
NAME = re.compile(r"\s*<function=([^>\n]+)>")


class QwenCoder(ToolFormat):
    """The name, the keys and the values have a line each."""

    markers = (OPEN, CLOSE)
    closing = (CLOSE,)

    def recognises(self, source: str) -> bool:
        return FUNCTION in source and PARAMETER in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return QwenCoderParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        parts = (quoted(PARAMETER), quoted(">\n"), quoted("\n"))
        names = [quoted(f"\n{FUNCTION}{function.name}>\n") for function in functions]
        end = f"{quoted(END + chr(10))} {special(CLOSE)}"
        calls = " | ".join(f"{name} arguments{at}" for at, name in enumerate(names))
        lines = marked(special(OPEN), "call", several, quoted("\n"))
        lines.append(f"call: ({calls}) {end}")
        for at, function in enumerate(functions):
            lines += keyed_rules(at, function, parts, quoted("\n" + VALUE_END))
        return "\n".join(lines)


class QwenCoderParser(KeyedCalls):
    """Some models forget the outer marker of a call, so the inner one is enough."""

    opens = (OPEN, FUNCTION)
    key = re.compile(r"<parameter=([^>\n]+)>")
    key_begins, border, close, last = PARAMETER, "\n", VALUE_END, END

    def opened(self, marker: str) -> None:
        if marker == FUNCTION:
            self.held = FUNCTION + self.held
        self._marker = "" if marker == FUNCTION else marker
        self._step = self._read_name

    def finish(self) -> None:
        self._step = self._close

    def _read_name(self) -> bool:
        """Take the name of the function."""
        rest = self.held.lstrip()
        if found := NAME.match(self.held):
            self.take(found.end())
            self.begin(found[1].strip())
        elif not self.ended and (FUNCTION.startswith(rest) or self._may_be_name(rest)):
            return False
        else:
            self.was_none(self._marker or self.take(len(FUNCTION)))
        return True

    def _may_be_name(self, rest: str) -> bool:
        return rest.startswith(FUNCTION) and not set(">\n") & set(rest)

    def _close(self) -> bool:
        return self.close_with(CLOSE)
