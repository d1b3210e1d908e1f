"""Calls as gpt-oss writes them: messages in a channel, to a recipient (OpenAI's harmony format)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dllama.server.tools.base import (
    Arguments,
    Begin,
    CallParser,
    Content,
    Function,
    Reasoning,
    Special,
    ToolFormat,
    call_rules,
    quoted,
)

START, CHANNEL, FORM, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
RECIPIENT = re.compile(r"to=(?:functions\.)?([A-Za-z0-9_.-]+)")


class Harmony(ToolFormat):
    """<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>"""

    markers = (START, CHANNEL, FORM, MESSAGE, END, CALL, RETURN)
    ends = (CALL,)
    always = True

    def recognises(self, source: str) -> bool:
        return CHANNEL in source and MESSAGE in source

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return HarmonyParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        """Return the rules: an answer has one call at most, and may have a message before it."""

        def call(function: Function, arguments: str) -> str:
            head = quoted(f"commentary to=functions.{function.name} ")
            form = f'{special(FORM)} "json" {special(MESSAGE)}'
            return f"{special(CHANNEL)} {head} {form} {arguments}"

        channel, message = special(CHANNEL), special(MESSAGE)
        preamble = f'{channel} "commentary" {message} TEXT {special(END)} {special(START)}'
        final = f'{channel} ("final" | "commentary") {message} TEXT'
        mixed = f'mixed: {final} | ({preamble} "assistant")? call'
        return "\n".join(["calls: call", mixed, *call_rules(functions, call)])

    def thinks(self, special: Special) -> str:
        channel, message = special(CHANNEL), special(MESSAGE)
        end, start = special(END), special(START)
        return f'({channel} "analysis" {message} TEXT {end} {start} "assistant")?'

    def says(self, special: Special) -> str:
        form = f'({special(FORM)} "json")?'
        return f'{special(CHANNEL)} "final" {form} {special(MESSAGE)} @text'

    def history(self, messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
        """Return the messages. Beside a call a template takes content or a thought, not both."""
        return [
            {**message, "thinking": message["reasoning_content"]}
            if message.get("reasoning_content")
            and not (message.get("tool_calls") and message["content"])
            else message
            for message in messages
        ]


class HarmonyParser(CallParser):
    """Messages, each with a header that says for whom it is."""

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__(functions)
        self._header = ""
        self._in_header = True
        self._kind: type[Content] | type[Reasoning] | type[Arguments] = Content

    @property
    def thinking(self) -> bool:
        return not self._in_header and self._kind is Reasoning

    def first(self) -> bool:
        return self._read_header() if self._in_header else self._read_body()

    def _read_header(self) -> bool:
        """Take a header; an answer without any marker is text."""
        text, marker = self.before((MESSAGE,))
        self._header += text
        if marker is None:
            if self.ended and CHANNEL not in self._header and START not in self._header:
                self.give(Content(self._header))
                self._header = ""
            return False
        to = RECIPIENT.search(self._header)
        channel = self._header.partition(CHANNEL)[2].split()
        if to:
            self._kind = Arguments
            self.give(Begin(to[1]))
        else:
            self._kind = Reasoning if channel[:1] == ["analysis"] else Content
        self._header, self._in_header = "", False
        return True

    def _read_body(self) -> bool:
        """Take the text of a message."""
        text, marker = self.before((END, CALL, RETURN, START))
        self.give(self._kind(text))
        self._in_header = marker is not None
        return self._in_header
