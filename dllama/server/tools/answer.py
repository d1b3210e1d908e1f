"""An answer that may call functions, as in OpenAI's API: streamed deltas, or a message."""

from __future__ import annotations

from typing import Any

from dllama.server.tool_fields import Tools
from dllama.server.tools.base import Arguments, Begin, Content, Event, Reasoning, ToolFormat


class Answer:
    """Turns the text of one answer into deltas.

    Args:
        form: how the model writes calls.
        tools: what may be called.

    Attributes:
        called: whether a function was called.
    """

    def __init__(self, form: ToolFormat, tools: Tools) -> None:
        self._form = form
        self._parser = form.parser([function.name for function in tools.functions])
        self._several = tools.several
        self._count = 0

    @property
    def called(self) -> bool:
        return self._count > 0

    def push(self, text: str) -> list[dict[str, Any]]:
        """Add a piece of the text and return the deltas that it brings."""
        return self._deltas(self._parser.push(text))

    def end(self) -> list[dict[str, Any]]:
        """Return the last deltas."""
        return self._deltas(self._parser.end())

    def whole(self, text: str) -> dict[str, Any]:
        """Return the fields of a message that has all of the text.

        Content is None if there are only calls. The field tool_calls is there only with calls.
        """
        said: dict[str, str] = {"content": "", "reasoning_content": ""}
        calls: list[dict[str, Any]] = []
        for delta in self.push(text) + self.end():
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
            call |= {"id": self._form.call_id(), "type": "function", "function": function}
        elif isinstance(event, Arguments):
            call["function"] = {"arguments": event.text}
        return {"tool_calls": [call]}
