"""The fields of a request that say which functions the model may call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dllama.checks import is_flag
from dllama.sampling.json_schema import closed
from dllama.server.fields import Fields, required, wrong
from dllama.server.problems import ApiError, shown
from dllama.server.tools.base import Function

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
MOST_DEPTH = 100  # of the JSON of a schema
CHOICES = "none, auto, required or a function"


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call.

    Attributes:
        asked: as the chat template gets them.
        functions: those that may be called.
        forced: whether one has to be called.
        several: whether more than one call is allowed.
    """

    asked: list[dict[str, Any]]
    functions: tuple[Function, ...]
    forced: bool
    several: bool


def take_tools(fields: Fields) -> Tools | None:
    """Take tools, tool_choice and parallel_tool_calls; None if nothing may be called.

    Raises:
        ApiError: 400: one is wrong.
    """
    given, choice = fields.take("tools"), fields.take("tool_choice")
    several = fields.take("parallel_tool_calls")
    if several is not None and not is_flag(several):
        raise wrong("parallel_tool_calls", several, "true or false")
    if given is not None and not isinstance(given, list):
        raise wrong("tools", given, "a list of functions")
    asked = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given or [])]
    functions = {tool["function"]["name"]: _function(tool["function"]) for tool in asked}
    if len(functions) < len(asked):
        raise ApiError(
            400, "tools has two functions of one name", param="tools", code="invalid_value"
        )
    named = _choice(choice, list(functions))
    if not asked or choice == "none":
        return None
    allowed = functions.values() if named is None else [functions[named]]
    forced = named is not None or choice == "required"
    return Tools(asked, tuple(allowed), forced, named is None and several is not False)


def _tool(value: object, where: str) -> dict[str, Any]:
    """Return a tool; description and parameters are there, since templates read them."""
    fields = Fields(value, f"{where}.")
    kind, given = fields.text("type"), fields.take("function")
    if kind != "function":
        message = f"{where}.type is {shown(kind)}, this server supports only 'function'"
        raise ApiError(400, message, param=f"{where}.type", code="unsupported_value")
    fields.end()
    if given is None:
        raise required(f"{where}.function")
    function = Fields(given, f"{where}.function.")
    name, description = function.text("name"), function.text("description")
    if name is None:
        raise required(f"{where}.function.name")
    if not NAME.fullmatch(name):
        raise wrong(f"{where}.function.name", name, "1 to 64 letters, digits, '_', '-' and '.'")
    parameters = function.take("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{where}.function.parameters", parameters, "a JSON schema, which is an object")
    if _is_deep(parameters):
        message = f"{where}.function.parameters is nested more than {MOST_DEPTH} levels deep"
        raise ApiError(400, message, param=f"{where}.function.parameters", code="invalid_value")
    made: dict[str, Any] = {"name": name, "description": description or ""}
    made["parameters"] = parameters or NO_ARGUMENTS
    strict = function.boolean("strict")
    function.end()
    return {"type": "function", "function": {**made, "strict": True} if strict else made}


def _is_deep(value: object) -> bool:
    """Whether a value is nested too deeply for what works on it level by level."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            part
            for one in level
            if isinstance(one, (dict, list))
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def _function(tool: dict[str, Any]) -> Function:
    """Return a function whose schema can be a rule of a grammar."""
    schema = closed({"type": "object", **tool["parameters"]})
    return Function(tool["name"], schema, lenient=not tool.get("strict", False))


def _choice(value: object, names: list[str]) -> str | None:
    """Check tool_choice and return the function that it names, if any."""
    if value in (None, "none", "auto"):
        return None
    if value == "required":
        if not names:
            raise ApiError(
                400, "tool_choice is 'required', but there are no tools",
                param="tool_choice", code="invalid_value",
            )  # fmt: skip
        return None
    if not isinstance(value, dict) or value.get("type") != "function":
        raise wrong("tool_choice", value, CHOICES)
    fields = Fields(value, "tool_choice.")
    fields.take("type")
    function = Fields(fields.take("function"), "tool_choice.function.")
    fields.end()
    name = function.text("name")
    function.end()
    if name not in names:
        raise wrong("tool_choice.function.name", name, "the name of one of the tools")
    return name
