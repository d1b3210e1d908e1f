"""Calls as gpt-oss writes them: messages in a channel, to a recipient (OpenAI's harmony format)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from dllama.server.tools.base import (
    Arguments,
    Begin,
    CallParser,
    Content,
    Function,
    Reasoning,
    Special,
    ToolFormat,
    quoted,
    rules,
)

START, CHANNEL, FORM, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
RECIPIENT = re.compile(r"to=(?:functions\.)?([A-Za-z0-9_.-]+)")


class Harmony(ToolFormat):
    """<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>"""

    markers = (START, CHANNEL, FORM, MESSAGE, END, CALL, RETURN)
    ends = (CALL,)

    def recognises(self, source: str) -> bool:
        return CHANNEL in source and MESSAGE in source

    def parser(self, names: Collection[str]) -> CallParser:
        return HarmonyParser(names)

    def grammar(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        """Return the grammar: the model may think before it calls one function."""
        thinks = (
            f'{special(CHANNEL)} "analysis" {special(MESSAGE)} /(.|\\n)*/ {special(END)} '
            f'{special(START)} "assistant"'
        )

        def call(function: Function, arguments: str) -> str:
            head = quoted(f"commentary to=functions.{function.name} ")
            form = f'{special(FORM)} "json" {special(MESSAGE)}'
            return f"{special(CHANNEL)} {head} {form} {arguments}"

        return rules(f"({thinks})? call", functions, call)


class HarmonyParser(CallParser):
    """Messages, each with a header that says for whom it is."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(names)
        self._header = ""
        self._in_header = True
        self._kind: type[Content] | type[Reasoning] | type[Arguments] = Content

    def step(self) -> bool:
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
