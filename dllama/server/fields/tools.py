"""The fields of a request that say which functions the model may call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dllama.sampling.json_schema import bounded, closed
from dllama.server.fields.json_object import Fields, wrong
from dllama.server.problems import ApiError
from dllama.server.tools.base import Function

NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
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

    @property
    def strict(self) -> bool:
        """Whether a function insists on its schema."""
        return any(not function.lenient for function in self.functions)


@dataclass(frozen=True)
class Choice:
    """What a request says of calls.

    Attributes:
        kind: "auto", "none" or "required"; with a name, "required".
        name: the only function that may be called; None for any.
        where: the field, for messages.
    """

    kind: str
    name: str | None = None
    where: str = "tool_choice"


def take_tools(fields: Fields) -> Tools | None:
    """Take tools, tool_choice and parallel_tool_calls; None if nothing may be called.

    Raises:
        ApiError: 400: one is wrong.
    """
    given, choice = fields.items("tools", "a list of functions"), fields.take("tool_choice")
    several = fields.boolean("parallel_tool_calls", True)
    asked = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    return offered(asked, parse_choice(choice, nested=True), several)


def offered(asked: list[dict[str, Any]], choice: Choice, several: bool) -> Tools | None:
    """Return the functions that may be called; None if nothing may be called.

    Args:
        asked: tools as chat templates get them.
        choice: which of them may or have to be called.
        several: whether more than one call is allowed.

    Raises:
        ApiError: 400: two have one name, or the choice is none of them.
    """
    functions = {tool["function"]["name"]: _function(tool["function"]) for tool in asked}
    if len(functions) < len(asked):
        raise ApiError(
            400, "tools has two functions of one name", param="tools", code="invalid_value"
        )
    name, forced = choice.name, choice.kind == "required"
    if name is not None and name not in functions:
        raise wrong(choice.where, name, "the name of one of the tools")
    if forced and not functions:
        message = f"{choice.where} asks for a call, but there are no tools"
        raise ApiError(400, message, param=choice.where, code="invalid_value")
    if not asked or choice.kind == "none":
        return None
    allowed = tuple(functions.values()) if name is None else (functions[name],)
    return Tools(asked, allowed, forced, name is None and several)


def _tool(value: object, where: str) -> dict[str, Any]:
    fields = Fields(value, f"{where}.")
    fields.kind(["function"])
    given = fields.given("function")
    fields.end()
    function = Fields(given, f"{where}.function.")
    made = take_function(function, f"{where}.function")
    function.end()
    return made


def take_function(fields: Fields, where: str, schema: str = "parameters") -> dict[str, Any]:
    """Take what describes a function, and return the tool as chat templates get it.

    Description and parameters are there, since templates read them.

    Args:
        fields: with name, description and strict.
        where: what has these fields.
        schema: the field with the schema of the arguments.
    """
    name, description = fields.given_text("name"), fields.text("description")
    if not NAME.fullmatch(name):
        raise wrong(f"{where}.name", name, "1 to 128 letters, digits, '_', '-' and '.'")
    parameters = fields.take(schema)
    if parameters is not None and not isinstance(parameters, dict):
        raise wrong(f"{where}.{schema}", parameters, "a JSON schema, which is an object")
    if _is_deep(parameters):
        message = f"{where}.{schema} is nested more than {MOST_DEPTH} levels deep"
        raise ApiError(400, message, param=f"{where}.{schema}", code="invalid_value")
    made: dict[str, Any] = {"name": name, "description": description or ""}
    made["parameters"] = parameters or NO_ARGUMENTS
    strict = fields.boolean("strict")
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
    schema = closed(bounded({"type": "object", **tool["parameters"]}))
    return Function(tool["name"], schema, lenient=not tool.get("strict", False))


def parse_choice(value: object, nested: bool) -> Choice:
    """Return what tool_choice says; ApiError 400.

    Args:
        value: of the field.
        nested: whether a choice has the name of a function in an object of its own.
    """
    if value in (None, "none", "auto", "required"):
        return Choice(str(value or "auto"))
    if not isinstance(value, dict) or value.get("type") != "function":
        raise wrong("tool_choice", value, CHOICES)
    fields = Fields(value, "tool_choice.")
    fields.take("type")
    function = fields.nested("function") if nested else fields
    name = function.given_text("name")
    function.end()
    fields.end()
    return Choice("required", name, f"tool_choice.{'function.' if nested else ''}name")
