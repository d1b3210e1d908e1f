"""Rules of a grammar for values that fit a JSON schema and are written much like JSON."""

from __future__ import annotations

import json
from typing import Any

from dllama.server.tools.base import json_rule, quoted
from dllama.server.tools.typed import CHOICES, resolved, types

WHOLE = "-?(0|[1-9][0-9]*)"
SCALARS = {
    "boolean": '("true" | "false")',
    "integer": f"/{WHOLE}/",
    "null": '("null" | "None")',
    "number": f"/{WHOLE}(\\.[0-9]+)?([eE][+-]?[0-9]+)?/",
}
BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
MOST_ITEMS = 1000


class SchemaRules:
    """Makes rules, of which one is a value that fits a schema.

    Keys come in the order of the alphabet, as templates write them. Lengths, patterns and formats
    of strings are left out.

    Args:
        name: of this rule; names of all others begin with it.
        schema: of an object.
        quote: the spelling of the marker around strings.

    Attributes:
        lines: the rules.
    """

    def __init__(self, name: str, schema: dict[str, Any], quote: str) -> None:
        self.lines: list[str] = []
        self._name = name
        self._root = schema
        self._quote = quote
        self._count = 0
        self._known: dict[int, str] = {}
        lazy = "" if quote.startswith("<[") else "[lazy]"
        self.lines.append(f"{name}_rest{lazy}: /(.|\\n)*/ {quote}")
        self._any()
        self.lines.append(f"{name}: {self._object(resolved(schema, schema))}")

    def _any(self) -> None:
        """Add the rules of any value, which is "NAME_any"."""
        name = self._name
        scalars = " | ".join([f"{self._quote} {name}_rest", *SCALARS.values()])
        pair = f'/[^{{}}\\[\\]:,<>"\\n]{{1,64}}/ ":" {name}_any'
        self.lines += [
            f"{name}_any: {scalars} | {name}_object | {name}_array",
            f'{name}_array: "[" ({name}_any ("," {name}_any)*)? "]"',
            f'{name}_object: "{{" ({pair} ("," {pair})*)? "}}"',
        ]

    def _value(self, schema: Any) -> str:
        """Return the name of a rule of a value; a schema has one, however often it is used."""
        schema = resolved(schema, self._root)
        if id(schema) not in self._known or not schema:  # ids of empty ones may come again
            self._count += 1
            name = self._known[id(schema)] = f"{self._name}_{self._count}"
            self.lines.append(f"{name}: {self._kinds(schema)}")
        return self._known[id(schema)]

    def _kinds(self, schema: dict[str, Any]) -> str:
        """Return what a value may be."""
        if isinstance(schema.get("enum"), list) or "const" in schema:
            return " | ".join(map(self._constant, schema.get("enum", [schema.get("const")])))
        for key in CHOICES:
            if isinstance(schema.get(key), list):
                return " | ".join(map(self._value, schema[key]))
        if "type" not in schema:
            return self._object(schema) if "properties" in schema else f"{self._name}_any"
        return " | ".join(self._kind(kind, schema) for kind in sorted(types(schema, self._root)))

    def _kind(self, kind: str, schema: dict[str, Any]) -> str:
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind in ("integer", "number") and BOUNDS & schema.keys():
            self._count += 1
            bounds = {key: schema[key] for key in BOUNDS & schema.keys()}
            name = f"{self._name}_{self._count}"
            self.lines.append(json_rule(name, {"type": kind, **bounds}, lenient=True))
            return name
        return SCALARS.get(kind, f"{self._quote} {self._name}_rest")

    def _array(self, schema: dict[str, Any]) -> str:
        item = self._value(schema["items"]) if "items" in schema else f"{self._name}_any"
        least, most = (_count(schema.get(key)) for key in ("minItems", "maxItems"))
        if most == 0:
            return '"[]"'
        more = f'("," {item}){{{max(least or 0, 1) - 1},{"" if most is None else most - 1}}}'
        return f'"[" {item} {more} "]"' if least else f'"[" ({item} {more})? "]"'

    def _object(self, schema: dict[str, Any]) -> str:
        """Return an object; a comma is before all but the first of those keys that are there."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return f"{self._name}_object"
        required = schema.get("required") or ()
        self._count += 1
        name, keys = f"{self._name}_{self._count}", sorted(properties, key=str.lower)
        for at, key in enumerate(keys):
            pair = f"{quoted(f'{key}:')} {self._value(properties[key])} {name}_next{at + 1}"
            for part, comma in (("first", ""), ("next", '","')):
                without = "" if key in required else f" | {name}_{part}{at + 1}"
                self.lines.append(f"{name}_{part}{at}: {comma} {pair}{without}")
        self.lines += [f'{name}_{part}{len(keys)}: ""' for part in ("first", "next")]
        return f'"{{" {name}_first0 "}}"'

    def _constant(self, value: Any) -> str:
        """Return a value that is given."""
        if isinstance(value, str):
            return f"{self._quote} {quoted(value)} {self._quote}"
        if isinstance(value, (int, float)):  # true and false, too
            return quoted(json.dumps(value))
        return SCALARS["null"] if value is None else f"{self._name}_any"


def _count(value: Any) -> int | None:
    """Return a number of items; None if it is none that a grammar can have."""
    return value if type(value) is int and 0 <= value <= MOST_ITEMS else None
