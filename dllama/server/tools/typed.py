"""Arguments that are written as plain text: of which type they are, which the schema says."""

from __future__ import annotations

import ast
import json
from typing import Any

from dllama.server.tools.base import quoted

ANY = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
TEXT = frozenset(("string",))
MOST_DEPTH = 20  # of references
PYTHON = {"True": "true", "False": "false", "None": "null"}  # as templates write them
CHOICES = ("anyOf", "oneOf")


def resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """Return a schema, or that to which it refers; an empty one if that is not there."""
    for _ in range(MOST_DEPTH):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        found: Any = root
        for name in schema["$ref"].removeprefix("#").split("/")[1:]:
            found = found.get(name) if isinstance(found, dict) else None
        schema = found
    return schema if isinstance(schema, dict) and "$ref" not in schema else {}


def types(schema: Any, root: dict[str, Any], depth: int = 0) -> frozenset[str]:
    """Return the names of the types that a value may have.

    Args:
        schema: of the value.
        root: schema in which references are looked up.
        depth: how many schemas this one is in.
    """
    schema = resolved(schema, root)
    if isinstance(schema.get("enum"), list):
        return frozenset(map(type_of, schema["enum"]))
    if "const" in schema:
        return frozenset((type_of(schema["const"]),))
    given = schema.get("type")
    if given is not None:
        return frozenset([given] if isinstance(given, str) else given) & ANY or ANY
    for key in CHOICES:
        if isinstance(schema.get(key), list) and depth < MOST_DEPTH:
            return frozenset().union(*(types(one, root, depth + 1) for one in schema[key]))
    return ANY


def type_of(value: Any) -> str:
    """Return the name of the type of a value of JSON."""
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def as_json(text: str, allowed: frozenset[str]) -> str:
    """Return the JSON of a value that is written as text.

    Args:
        text: a string as it is, or another value as JSON or as Python writes it.
        allowed: the types that it may have.
    """
    if allowed == TEXT:
        return quoted(text)
    plain = text.strip()
    plain = PYTHON.get(plain, plain)
    try:
        found = type_of(json.loads(plain))
    except (ValueError, RecursionError):
        return _python(plain, allowed) or quoted(text)
    fits = found in allowed or (found == "integer" and "number" in allowed)
    if "string" in allowed and (found == "string" or not fits):
        return quoted(text)
    return plain


def _python(text: str, allowed: frozenset[str]) -> str | None:
    """Return the JSON of a list or a dict as Python writes it; None if it is none.

    Some templates write them so, hence some models, too.
    """
    try:
        value = ast.literal_eval(text)
        made = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return made if isinstance(value, (list, dict)) and type_of(value) in allowed else None
