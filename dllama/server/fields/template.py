"""The fields of a request that the chat template gets, as vLLM and llama.cpp have them."""

from __future__ import annotations

from typing import Any

from dllama.server.fields.json_object import Fields
from dllama.server.problems import ApiError
from dllama.text.template import Begin
from dllama.text.template_variables import checked_variables


def take_begin(fields: Fields, messages: list[dict[str, Any]]) -> Begin:
    """Take the fields that say what comes after the last message."""
    name = "add_generation_prompt"
    begins = fields.boolean(name) if name in fields else None
    if not fields.boolean("continue_final_message"):
        return Begin.NOTHING if begins is False else Begin.NEXT
    why = ""
    if begins:
        why = "needs add_generation_prompt to be false"
    elif not may_go_on(messages):
        why = "needs an answer of the assistant with text, and no calls, as the last message"
    if why:
        name = "continue_final_message"
        raise ApiError(400, f"{name} {why}", param=name, code="invalid_value")
    return Begin.REST


def may_go_on(messages: list[dict[str, Any]]) -> bool:
    """Whether the last message is an answer with text and no calls, so that it may be continued."""
    if not messages or messages[-1]["role"] != "assistant":
        return False
    return bool(messages[-1]["content"].strip()) and "tool_calls" not in messages[-1]


def take_variables(fields: Fields, effort: str | None) -> dict[str, Any]:
    """Take the variables of the chat template.

    Args:
        fields: with chat_template_kwargs.
        effort: how hard the model is to think, if the request says so in a field of its own.
    """
    value = fields.take("chat_template_kwargs")
    try:
        given = {} if value is None else checked_variables(value)
    except ValueError as error:
        message = f"chat_template_kwargs: {error}"
        raise ApiError(400, message, param="chat_template_kwargs", code="invalid_value") from error
    return given if effort is None else {"reasoning_effort": effort, **given}
