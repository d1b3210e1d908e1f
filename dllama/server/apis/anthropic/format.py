"""The responses of /v1/messages: a message of blocks, or events about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllama.server.apis.parts import Objects, Part, PartsFormat
from dllama.server.fields.options import Options
from dllama.server.http.errors import anthropic_error
from dllama.server.problems import ApiError
from dllama.server.queue.jobs import Done
from dllama.server.response_format import compact
from dllama.server.served import Served
from dllama.server.tools.answer import Answer

# The fields of deltas, by kinds of parts.
DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


class MessageFormat(PartsFormat):
    """A message.

    Args:
        stops: the stop strings of the request.
        served, options, prompt, answer: as for PartsFormat.
    """

    def __init__(
        self,
        stops: Sequence[str],
        served: Served,
        options: Options,
        prompt: Sequence[int],
        answer: Answer,
    ) -> None:
        super().__init__(served, options, prompt, answer)
        self._stops = stops
        self._opened = False

    def wait(self) -> str:
        return "".join(map(self.frame, self.opening() or [{"type": "ping"}]))

    def opening(self) -> Objects:
        if self._opened:
            return []
        self._opened = True
        message = self._message([], None, Done("", prompt=self.prompt))
        return [{"type": "message_start", "message": message}]

    def begin(self, part: Part) -> Objects:
        block = {**_block(part), "input": {}} if part.kind == "call" else _block(part)
        return [{"type": "content_block_start", "index": part.index, "content_block": block}]

    def more(self, part: Part, text: str) -> Objects:
        kind, field = DELTAS[part.kind]
        return [self._delta(part, {"type": kind, field: text})]

    def finish(self, part: Part) -> Objects:
        made: Objects = [{"type": "content_block_stop", "index": part.index}]
        if part.kind == "reasoning":
            made.insert(0, self._delta(part, {"type": "signature_delta", "signature": ""}))
        return made

    def last(self, done: Done) -> Objects:
        delta = {"stop_reason": self._reason(done), "stop_sequence": self._stop()}
        return [
            {"type": "message_delta", "delta": delta, "usage": _usage(done)},
            {"type": "message_stop"},
        ]

    def result(self, done: Done) -> dict[str, Any]:
        return self._message([_block(part) for part in self.parts], self._reason(done), done)

    def error(self, error: ApiError) -> dict[str, Any]:
        return anthropic_error(error)

    def frame(self, value: dict[str, Any]) -> str:
        return f"event: {value['type']}\ndata: {compact(value)}\n\n"

    def _message(self, content: Objects, reason: str | None, done: Done) -> dict[str, Any]:
        return {
            "id": f"msg_{self.options.id}",
            "type": "message",
            "role": "assistant",
            "model": self.served.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": self._stop(),
            "usage": _usage(done),
        }

    def _reason(self, done: Done) -> str:
        """Return why the message ends."""
        if done.reason == "length":
            return "max_tokens"
        if self.called():
            return "tool_use"
        return "stop_sequence" if self._stop() else "end_turn"

    def _stop(self) -> str | None:
        """Return the stop string of the request that ended the message."""
        return self.stopped if self.stopped in self._stops else None

    def _delta(self, part: Part, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": part.index, "delta": delta}


def _block(part: Part) -> dict[str, Any]:
    """Return a block of a message."""
    if part.kind == "text":
        return {"type": "text", "text": part.text}
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": part.text, "signature": ""}
    return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}


def _usage(done: Done) -> dict[str, int]:
    """Return the tokens of a message; those of the prompt that were known are counted apart."""
    return {
        "input_tokens": done.prompt - done.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": done.cached,
        "output_tokens": done.generated,
    }
