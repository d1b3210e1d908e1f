"""An answer that may think and call functions, in OpenAI's form: deltas, or a whole message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dllama.server.tools.base import AnswerParser, Arguments, Begin, Content, Event, Reasoning


@dataclass
class Tally:
    """Counts the tokens of all answers to a request that belong to what the model thinks."""

    reasoning: int = 0


class Answer:
    """Turns the text of one answer into deltas.

    Args:
        parser: understands the text.
        call_id: gives the ids of calls.
        several: whether more than one call is allowed.
        tally: counts tokens.

    Attributes:
        called: whether a function was called.
    """

    def __init__(
        self,
        parser: AnswerParser,
        call_id: Callable[[], str] = str,
        several: bool = True,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self._parser = parser
        self._call_id = call_id
        self._several = several
        self._count = 0

    @property
    def called(self) -> bool:
        return self._count > 0

    def push(self, text: str) -> list[dict[str, Any]]:
        """Add the text of a token and return the deltas that it brings."""
        thinking = self._parser.thinking
        events = self._parser.push(text)
        self.tally.reasoning += thinking or self._parser.thinking
        return self._deltas(events)

    def end(self) -> list[dict[str, Any]]:
        """Return the last deltas."""
        return self._deltas(self._parser.end())

    def whole(self, texts: Iterable[str]) -> dict[str, Any]:
        """Return the fields of a message that has the texts of all tokens.

        Content is None if there are only calls. The fields reasoning_content and tool_calls are
        there only if there is something in them.
        """
        said: dict[str, str] = {"content": "", "reasoning_content": ""}
        calls: list[dict[str, Any]] = []
        for delta in [delta for text in texts for delta in self.push(text)] + self.end():
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    calls.append({name: call[name] for name in ("id", "type", "function")})
                else:
                    calls[-1]["function"]["arguments"] += call["function"]["arguments"]
            for name in said.keys() & delta.keys():
                said[name] += delta[name]
        message: dict[str, Any] = {"content": said["content"] or (None if calls else "")}
        if said["reasoning_content"]:
            message["reasoning_content"] = said["reasoning_content"]
        return {**message, "tool_calls": calls} if calls else message

    def _deltas(self, events: list[Event]) -> list[dict[str, Any]]:
        found = [self._delta(event) for event in events]
        return [delta for delta in found if delta is not None]

    def _delta(self, event: Event) -> dict[str, Any] | None:
        """Return the delta of an event; None for further calls where only one is allowed."""
        if isinstance(event, Content):
            return {"content": event.text}
        if isinstance(event, Reasoning):
            return {"reasoning_content": event.text}
        self._count += isinstance(event, Begin)
        if self._count > 1 and not self._several:
            return None
        call: dict[str, Any] = {"index": self._count - 1}
        if isinstance(event, Begin):
            function = {"name": event.name, "arguments": ""}
            call |= {"id": self._call_id(), "type": "function", "function": function}
        elif isinstance(event, Arguments):
            call["function"] = {"arguments": event.text}
        return {"tool_calls": [call]}
