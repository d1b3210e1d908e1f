"""Calls as Gemma 4 and FunctionGemma write them: call:NAME{KEY:VALUE,...}."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from dllama.server.tools.base import (
    Arguments,
    Begin,
    CallParser,
    Function,
    Special,
    ToolFormat,
    marked,
    quoted,
)
from dllama.server.tools.gemma_schema import SchemaRules
from dllama.server.tools.marked_call import MarkedCalls
from dllama.server.tools.typed import PYTHON

NAME = re.compile(r"\s*call:\s*([A-Za-z0-9_.-]+)\s*(?=\{)")
BARE = re.compile(r"\s*([^\s{}\[\],:\"<][^{}\[\],:\"<]*?)\s*(?=[{}\[\],:])")
STRING = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
WORDS = {"true", "false", "null"}
TOOL_ROLE = re.compile(r"==\s*['\"]tool['\"]")


class GemmaFormat(ToolFormat):
    """Strings are between markers, keys are bare, and all else is as in JSON.

    Attributes:
        open, close: markers around a call.
        quote: marker around a string.
    """

    open: str
    close: str
    quote: str

    def recognises(self, source: str) -> bool:
        return self.open in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return GemmaParser(functions, self)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        lines = marked(special(self.open), "call", several)
        heads = [quoted(f"call:{function.name}") for function in functions]
        calls = " | ".join(f"{head} arguments{at}" for at, head in enumerate(heads))
        lines.append(f"call: ({calls}) {special(self.close)}")
        for at, function in enumerate(functions):
            lines += SchemaRules(f"arguments{at}", function.schema, special(self.quote)).lines
        return "\n".join(lines)

    def history(self, messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
        """Return messages with results of calls as the template reads them.

        Some templates know no role "tool": there the message with the calls has the results, too,
        and the text that follows them.
        """
        if "tool_responses" not in source or TOOL_ROLE.search(source):
            return messages
        made: list[dict[str, Any]] = []
        for message in messages:
            before = made[-1] if made else {}
            if message["role"] == "tool" and "tool_calls" in before:
                results = [*before.get("tool_responses", ()), _result(message)]
                made[-1] = {**before, "tool_responses": results}
            elif message["role"] == "assistant" and "tool_responses" in before:
                joined = {**before, "content": before["content"] + message["content"]}
                made[-1:] = [before, message] if "tool_calls" in message else [joined]
            else:
                made.append(message)
        return made


def _result(message: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a call; an object of JSON is one for the template, too."""
    try:
        found = json.loads(message["content"])
    except (ValueError, RecursionError):
        found = None
    response = found if isinstance(found, dict) else message["content"]
    return {"name": message.get("name", "unknown"), "response": response}


class GemmaParser(MarkedCalls):
    """Turns arguments into JSON as they come."""

    def __init__(self, functions: Sequence[Function], form: GemmaFormat) -> None:
        super().__init__(functions)
        self.opens = (form.open,)
        self._form = form
        self._depth = 0

    def opened(self, marker: str) -> None:
        self._step = self._read_name

    def _read_name(self) -> bool:
        """Take the name of the function."""
        if found := NAME.match(self.held):
            self.take(found.end())
            self.give(Begin(found[1]))
            self._step = self._read_value
            return True
        rest = self.held.lstrip()
        if not self.ended and ("call:".startswith(rest) or self._may_be_name(rest)):
            return False
        self.was_none(self._form.open)
        return True

    def _may_be_name(self, rest: str) -> bool:
        return rest.startswith("call:") and not set("{<\n") & set(rest)

    def _read_value(self) -> bool:
        """Take a bracket, a comma, a colon, a word, or the beginning of a string."""
        self.held = self.held.lstrip()
        quote = self._form.quote
        if not self.held or self.may_begin(quote):
            return False
        if self.held.startswith(quote):
            self.take(len(quote))
            self.give(Arguments('"'))
            self._step = self._read_string
        elif found := STRING.match(self.held):
            self.take(found.end())
            self.give(Arguments(found[1]))
        elif found := BARE.match(self.held):
            self.take(found.end())
            self.give(Arguments(_word(found[1], key=self.held.startswith(":"))))
        elif self.held[0] in "{}[],:":
            self._take_bracket()
        else:
            return self._skip_wrong()
        return True

    def _take_bracket(self) -> None:
        char = self.take(1)
        self._depth += (char in "{[") - (char in "}]")
        self.give(Arguments({",": ", ", ":": ": "}.get(char, char)))
        if self._depth == 0:
            self._step = self._close

    def _skip_wrong(self) -> bool:
        """Drop what cannot be part of a value; False if more text may make it one."""
        if self.held[0] == "<":
            self.take(1)
            return True
        return False

    def _read_string(self) -> bool:
        """Take some of a string."""
        text, marker = self.before((self._form.quote,))
        self.give(Arguments(quoted(text)[1:-1] + ('"' if marker else "")))
        if marker:
            self._step = self._read_value
        return marker is not None

    def _close(self) -> bool:
        return self.close_with(self._form.close)


def _word(word: str, key: bool) -> str:
    """Return the JSON of a word that is a key or a value."""
    plain = PYTHON.get(word, word)
    if not key and (plain in WORDS or _is_number(plain)):
        return plain
    return quoted(word)


def _is_number(word: str) -> bool:
    try:
        return isinstance(json.loads(word), (int, float))
    except ValueError:
        return False


class Gemma(GemmaFormat):
    """Gemma 4. A special token asks for the result of a call."""

    open, close, quote = "<|tool_call>", "<tool_call|>", '<|"|>'
    markers = (open, close, quote)
    ends = ("<|tool_response>",)


class FunctionGemma(GemmaFormat):
    """FunctionGemma, as Gemma 4 with other markers."""

    open, close, quote = "<start_function_call>", "<end_function_call>", "<escape>"
    markers = (open, close, quote)
    ends = ("<start_function_response>",)
