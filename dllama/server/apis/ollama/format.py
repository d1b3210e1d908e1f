"""The responses of Ollama's API: one JSON object, or one on each line of a stream."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from dllama.server.apis.ollama.catalogue import listed, time_text
from dllama.server.apis.parts import Objects, Part, PartsFormat
from dllama.server.fields.options import Options
from dllama.server.http.errors import ollama_error
from dllama.server.problems import ApiError
from dllama.server.queue.exchange import Exchange
from dllama.server.queue.jobs import Done, Place
from dllama.server.response_format import compact
from dllama.server.served import Served
from dllama.server.tools.answer import Answer
from dllama.server.tools.base import TextParser


class OllamaFormat(PartsFormat):
    """A response.

    Args:
        exchange: knows how long what took.
        served, options, prompt, answer: as for PartsFormat.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        exchange: Exchange,
        served: Served,
        options: Options,
        prompt: Sequence[int],
        answer: Answer,
    ) -> None:
        super().__init__(served, options, prompt, answer)
        self._exchange = exchange

    @staticmethod
    @abstractmethod
    def said(text: str, thoughts: str, calls: Objects) -> dict[str, Any]:
        """Return the fields that hold an answer, or a piece of one."""

    def wait(self) -> str:
        return self.frame(self._chunk("", "", []))

    def place(self, place: Place) -> str:
        return ""

    def opening(self) -> Objects:
        return []

    def begin(self, part: Part) -> Objects:
        return []

    def more(self, part: Part, text: str) -> Objects:
        """Return a piece of a text or of thoughts; a call comes as a whole."""
        if part.kind == "call":
            return []
        return [self._chunk(*((text, "") if part.kind == "text" else ("", text)), [])]

    def finish(self, part: Part) -> Objects:
        return [self._chunk("", "", [_call(part)])] if part.kind == "call" else []

    def last(self, done: Done) -> Objects:
        return [{**head(self.served), **self.said("", "", []), **self._end(done)}]

    def result(self, done: Done) -> dict[str, Any]:
        text, thoughts = (
            "".join(part.text for part in self.parts if part.kind == kind)
            for kind in ("text", "reasoning")
        )
        calls = [_call(part) for part in self.parts if part.kind == "call"]
        return {**head(self.served), **self.said(text, thoughts, calls), **self._end(done)}

    def error(self, error: ApiError) -> dict[str, Any]:
        return ollama_error(error)

    def frame(self, value: dict[str, Any]) -> str:
        return f"{compact(value)}\n"

    def _chunk(self, text: str, thoughts: str, calls: Objects) -> dict[str, Any]:
        return {**head(self.served), **self.said(text, thoughts, calls), "done": False}

    def _end(self, done: Done) -> dict[str, Any]:
        """Return why the answer ends, and what it took."""
        times = self._exchange
        now = time.monotonic()
        begun = now if times.begun is None else times.begun
        first = now if times.first is None else times.first
        last = first if times.last is None else times.last
        return {
            "done": True,
            "done_reason": done.reason,
            "total_duration": _nanoseconds(now - times.since),
            "load_duration": _nanoseconds(begun - times.since),
            "prompt_eval_count": done.prompt,
            "prompt_eval_duration": _nanoseconds(first - begun),
            "eval_count": done.generated,
            "eval_duration": _nanoseconds(last - first),
        }


class ChatFormat(OllamaFormat):
    """The next message of a conversation."""

    @staticmethod
    def said(text: str, thoughts: str, calls: Objects) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        message |= {"thinking": thoughts} if thoughts else {}
        return {"message": {**message, "tool_calls": calls} if calls else message}


class GenerateFormat(OllamaFormat):
    """The answer to a prompt."""

    @staticmethod
    def said(text: str, thoughts: str, calls: Objects) -> dict[str, Any]:
        return {"response": text, "thinking": thoughts} if thoughts else {"response": text}


class RawFormat(GenerateFormat):
    """What continues a prompt."""

    def __init__(
        self, exchange: Exchange, served: Served, options: Options, prompt: Sequence[int]
    ) -> None:
        super().__init__(exchange, served, options, prompt, Answer(TextParser()))


def head(served: Served) -> dict[str, Any]:
    """Return the fields that every object of a response begins with."""
    return {"model": listed(served), "created_at": time_text(time.time())}


def loaded(kind: type[OllamaFormat], served: Served) -> dict[str, Any]:
    """Return the response to a request that only asks for the model to be loaded."""
    return {**head(served), **kind.said("", "", []), "done": True, "done_reason": "load"}


def _call(part: Part) -> dict[str, Any]:
    return {"id": part.id, "function": {"name": part.name, "arguments": part.arguments}}


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e9))
