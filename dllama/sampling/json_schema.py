"""JSON schemas, before they become grammars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dllama.checks import is_number

# Keywords whose values are schemas: one, a list, or a mapping of names to schemas.
ONE = ("items", "additionalProperties")
SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
# An object that names its properties is open to others if it has one of these.
OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties")
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
LARGEST = 2**53 - 1  # the integer up to which all readers of JSON agree


def closed(schema: Any) -> Any:
    """Return a schema whose objects have only the properties that it names.

    All that fits it fits the original, which says nothing about other properties. A model that may
    add some often does so without end. Schemas that combine objects (allOf, or properties beside a
    $ref) stay as they are.
    """
    return schema if _combines(schema) else _closed(schema)


def _parts(schema: dict[str, Any]) -> list[Any]:
    """Return the schemas in a schema."""
    parts = [schema[key] for key in ONE if key in schema]
    parts += [one for key in SEVERAL if isinstance(schema.get(key), list) for one in schema[key]]
    maps = [schema[key] for key in NAMED if isinstance(schema.get(key), dict)]
    return [*parts, *(one for named in maps for one in named.values())]


def _combines(schema: Any) -> bool:
    """Whether an object in a schema has to fit several schemas at once."""
    if not isinstance(schema, dict):
        return False
    both = "properties" in schema and any(key in schema for key in ("$ref", "anyOf", "oneOf"))
    return both or "allOf" in schema or any(map(_combines, _parts(schema)))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    made = _changed(schema, _closed)
    if "properties" in made and not any(key in made for key in OPEN):
        made["additionalProperties"] = False
    return made


def bounded(schema: Any) -> Any:
    """Return a schema whose integers have bounds: those that it names, else +-LARGEST.

    A model that would go on after a number with what does not fit, such as one more property, often
    writes digits without end instead.
    """
    if not isinstance(schema, dict):
        return schema
    made = _changed(schema, bounded)
    types = made["type"] if isinstance(made.get("type"), list) else [made.get("type")]
    if "integer" not in types or "number" in types or "enum" in made or "const" in made:
        return made
    if all(is_number(made[key], -LARGEST, LARGEST) for key in BOUNDS if key in made):
        made.setdefault("minimum", -LARGEST)
        made.setdefault("maximum", LARGEST)
    return made


def _changed(schema: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a schema with other schemas in it."""
    made = dict(schema)
    for key in ONE:
        if key in made:
            made[key] = change(made[key])
    for key in SEVERAL:
        if isinstance(made.get(key), list):
            made[key] = [change(one) for one in made[key]]
    for key in NAMED:
        if isinstance(made.get(key), dict):
            made[key] = {name: change(one) for name, one in made[key].items()}
    return made
