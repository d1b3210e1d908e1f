"""An answer in parts, as APIs have it that tell texts, thoughts and calls apart."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dllama import Token
from dllama.server.fields.options import Options
from dllama.server.queue.jobs import Done
from dllama.server.response_format import ResponseFormat
from dllama.server.served import Served
from dllama.server.tools.answer import Answer

Objects = list[dict[str, Any]]
FIELDS = {"reasoning_content": "reasoning", "content": "text"}  # of deltas, and kinds of parts


@dataclass
class Part:
    """A part of an answer.

    Attributes:
        index: its place in the answer.
        kind: "text", "reasoning" or "call".
        text: all of it that came so far; the arguments of a call, as JSON.
        name, id: of a call.
    """

    index: int
    kind: str
    text: str = ""
    name: str = ""
    id: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a call; {} if they are no JSON object, for instance if cut."""
        try:
            value = json.loads(self.text or "{}")
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class PartsFormat(ResponseFormat):
    """Builds a response whose parts come one after the other.

    Args:
        served: the model.
        options: options of the request.
        prompt: ids of the prompt.
        answer: understands the text.

    Attributes:
        answer: the same.
        prompt: number of tokens in the prompt.
        parts: those that have begun.
        stopped: the stop string that ended the text, if any.
    """

    def __init__(
        self, served: Served, options: Options, prompt: Sequence[int], answer: Answer
    ) -> None:
        self.served = served
        self.options = options
        self.prompt = len(prompt)
        self.parts: list[Part] = []
        self.stopped: str | None = None
        self.answer = answer
        self._open = False  # whether the last part may grow
        self._blank = ""  # white space that may begin a text

    def whole(self, tokens: Sequence[Token], done: Done) -> dict[str, Any]:
        for token in tokens:
            self.piece(token)
        self._finish()
        return self.result(done)

    def piece(self, token: Token) -> Objects:
        self.stopped = token.stop
        return self._take(self.answer.push(token.text))

    def closing(self, done: Done) -> Objects:
        return [*self._finish(), *self.last(done)]

    @abstractmethod
    def begin(self, part: Part) -> Objects:
        """Return what announces a part in a stream."""

    @abstractmethod
    def more(self, part: Part, text: str) -> Objects:
        """Return what adds some text to a part in a stream."""

    @abstractmethod
    def finish(self, part: Part) -> Objects:
        """Return what ends a part in a stream."""

    @abstractmethod
    def last(self, done: Done) -> Objects:
        """Return what ends a stream after all parts."""

    @abstractmethod
    def result(self, done: Done) -> dict[str, Any]:
        """Return the whole response; all parts are there."""

    def called(self) -> bool:
        """Whether a function was called."""
        return any(part.kind == "call" for part in self.parts)

    def _finish(self) -> Objects:
        """Take what is left. An answer of white space alone is a text."""
        made = self._take(self.answer.end())
        if not self.parts and self._blank:
            made += self._grow("text", self._blank)
        return made + self._close()

    def _take(self, deltas: Iterable[dict[str, Any]]) -> Objects:
        made: Objects = []
        for delta in deltas:
            for name in FIELDS.keys() & delta.keys():
                made += self._add(FIELDS[name], delta[name])
            for call in delta.get("tool_calls", ()):
                made += self._call(call)
        return made

    def _call(self, call: dict[str, Any]) -> Objects:
        """Take a delta of a call: the first one of a call has an id."""
        made: Objects = []
        if "id" in call:
            made = self._begin("call", name=call["function"]["name"], id=call["id"])
        return made + self._extend(call["function"]["arguments"])

    def _add(self, kind: str, text: str) -> Objects:
        """Take some text; white space begins no part."""
        if not (self._open and self.parts[-1].kind == kind):
            text = self._blank + text
            self._blank = text if not text.strip() else ""
            if self._blank:
                return []
        return self._grow(kind, text)

    def _grow(self, kind: str, text: str) -> Objects:
        grows = self._open and self.parts[-1].kind == kind
        return ([] if grows else self._begin(kind)) + self._extend(text)

    def _begin(self, kind: str, name: str = "", id: str = "") -> Objects:
        made = self._close()
        self.parts.append(Part(len(self.parts), kind, name=name, id=id))
        self._open, self._blank = True, ""
        return made + self.begin(self.parts[-1])

    def _extend(self, text: str) -> Objects:
        if not text:
            return []
        self.parts[-1].text += text
        return self.more(self.parts[-1], text)

    def _close(self) -> Objects:
        """End the part that is open, if any."""
        was, self._open = self._open, False
        return self.finish(self.parts[-1]) if was else []
