"""Calls as Llama 3.1 and later write them: {"name": ..., "parameters": {...}} as the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from dllama.server.tools.base import (
    CallParser,
    Function,
    Special,
    ToolFormat,
    call_rules,
    object_call,
)
from dllama.server.tools.json_call import JsonCalls

TAG = "<|python_tag|>"


class Llama(ToolFormat):
    """The answer is a JSON object, or several with "; " between them, maybe after a tag.

    A template of Llama takes one call per message. So a grammar allows one.
    """

    markers = (TAG,)
    ends = ("<|eom_id|>",)

    def recognises(self, source: str) -> bool:
        return (
            "<|start_header_id|>" in source and "tool_calls" in source and '"parameters"' in source
        )

    def parser(self, functions: Sequence[Function]) -> CallParser:
        return LlamaParser(functions)

    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        call = partial(object_call, key="parameters")
        names = "|".join(re.escape(function.name) for function in functions)
        begun = f'\\s*\\{{"name": "({names})"(.|\\n)*'
        lines = ["calls: call", f"mixed: {special(TAG)}? (call | free)"]
        lines.append(f"free: FREE\nFREE: TEXT & ~/{begun}/")
        return "\n".join([*lines, *call_rules(functions, call)])


class LlamaParser(JsonCalls):
    """Calls, if the answer begins with one of a known function; else text."""

    def is_function(self, name: str) -> bool:
        return name in self.functions

    def first(self) -> bool:
        """Find out whether the answer may begin with a call."""
        rest = self.held.lstrip()
        if not self.ended and len(rest) < len(TAG) and TAG.startswith(rest):
            return False
        if rest.startswith(TAG):
            self.held = rest[len(TAG) :]
            self._step = self._call
        elif rest.startswith("{"):
            self._step = self._call
        else:
            self._step = self.rest
        return True

    def _call(self) -> bool:
        self.begin_call(self._after_call)
        return True

    def _after_call(self, called: bool) -> None:
        self._step = self._between if called else self.rest

    def _between(self) -> bool:
        """Take what separates two calls."""
        self.held = self.held.lstrip("; \t\r\n")
        if self.held:
            self._step = self.first
        return bool(self.held)
