"""Calls of models whose chat templates have no functions: they are told of them in a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dllama.server.tools.hermes import CLOSE, OPEN, Hermes

RESULT, RESULT_END = "<tool_response>", "</tool_response>"
CALL = json.dumps({"name": "NAME", "arguments": {"KEY": "VALUE"}})
EXAMPLE = f"""\
{OPEN}
{CALL}
{CLOSE}
You will then get the result between {RESULT} and {RESULT_END}."""


def tell(
    messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]], example: str
) -> list[dict[str, Any]]:
    """Return messages that tell of functions, in the first one of the system or of the user.

    Args:
        messages: of a conversation.
        tools: the functions.
        example: a call of NAME.
    """
    shown = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = f"You can call these functions:\n<tools>\n{shown}\n</tools>\n"
    text += f"To call one, answer with its name and its arguments as JSON in this form:\n{example}"
    for at, message in enumerate(messages):
        if message["role"] in ("system", "user"):
            parts = [message["content"], text]
            joined = "\n\n".join(parts if message["role"] == "system" else parts[::-1])
            return [*messages[:at], {**message, "content": joined}, *messages[at + 1 :]]
    return [{"role": "user", "content": text}, *messages]


class Told(Hermes):
    """Calls are as Hermes writes them. Functions, calls and results are plain text for a template.

    No template has this format.
    """

    def recognises(self, source: str) -> bool:
        return False

    def history(self, messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
        """Return messages whose calls are text. Results are what the user says."""
        made: list[dict[str, Any]] = []
        after_result = False
        for message in map(_plain, messages):
            if after_result and message["role"] == "user":
                made[-1] = {**message, "content": f"{made[-1]['content']}\n{message['content']}"}
            else:
                made.append(message)
            after_result = message["content"].endswith(RESULT_END) and message["role"] == "user"
        return made

    def example(self, source: str) -> str:
        return EXAMPLE


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message that a template without functions knows."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"{RESULT}\n{message['content']}\n{RESULT_END}"}
    if "tool_calls" not in message:
        return message
    calls = [
        f"{OPEN}\n{json.dumps({name: call['function'][name] for name in ('name', 'arguments')})}\n"
        f"{CLOSE}"
        for call in message["tool_calls"]
    ]
    content = "\n".join([message["content"], *calls] if message["content"] else calls)
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": content}
