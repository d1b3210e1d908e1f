"""Messages as chat templates get them, made of the items or blocks of other APIs."""

from __future__ import annotations

from typing import Any

from dllama.server.fields.messages import Arguments
from dllama.server.fields.template import may_go_on
from dllama.text.template import Begin


class Talk:
    """A conversation that grows item by item.

    Thoughts, a text and calls that follow each other are one message of the assistant.

    Args:
        joined: roles of which texts that follow each other are one; many templates know only one
            message with instructions, at the beginning.

    Attributes:
        messages: as parse_messages returns them.
        arguments: parses those of calls that have them as texts.
    """

    def __init__(self, joined: tuple[str, ...] = ("system",)) -> None:
        self._joined = joined
        self.messages: list[dict[str, Any]] = []
        self.arguments = Arguments()
        self._called: dict[str, str] = {}  # functions by the ids of calls
        self._waiting: dict[str, str] = {}  # those without results

    @property
    def begin(self) -> Begin:
        """What comes next if a text of the assistant at the end is one that is to go on."""
        return Begin.REST if may_go_on(self.messages) else Begin.NEXT

    def say(self, role: str, text: str) -> None:
        """Add a text."""
        last = self.messages[-1] if self.messages else {}
        if role in self._joined and role == last.get("role") and "tool_calls" not in last:
            last["content"] = f"{last['content']}\n\n{text}" if last["content"] else text
        elif role == "assistant":
            self._answer("content", "tool_calls")["content"] = text
        else:
            self.messages.append({"role": role, "content": text})

    def think(self, text: str) -> None:
        """Add what the assistant thought before it said or did what follows."""
        self._answer("reasoning_content", "content", "tool_calls")["reasoning_content"] = text

    def call(self, id: str | None, name: str, arguments: dict[str, Any]) -> None:
        """Add a call of a function; without an id it gets one, of nine letters and digits."""
        id = f"call{len(self._called):05}" if id is None else id
        called = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._answer().setdefault("tool_calls", []).append(called)
        self._called[id] = self._waiting[id] = name

    def result(self, id: str | None, text: str, name: str | None = None) -> None:
        """Add what a call returned. Without an id, it is that of the first call without a result.

        Args:
            id: of the call.
            text: what it returned.
            name: of the function, if it is known.
        """
        if id is None:
            calls = self._waiting.items()
            id = next((call for call, called in calls if name in (None, called)), "")
        self._waiting.pop(id, None)
        name = name or self._called.get(id)
        made = {"role": "tool", "content": text, "tool_call_id": id}
        self.messages.append({**made, "name": name} if name else made)

    def _answer(self, *without: str) -> dict[str, Any]:
        """Return the assistant's last message, or a new one if it has any of some fields."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != "assistant" or any(last.get(field) for field in without):
            last = {"role": "assistant", "content": ""}
            self.messages.append(last)
        return last
