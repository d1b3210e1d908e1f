"""Values of arguments that models write as plain text."""

from __future__ import annotations

import json

import pytest

from dllama.server.tools.typed import as_json, resolved, types

ROOT = {"$defs": {"size": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}
ALL = {"array", "boolean", "integer", "null", "number", "object", "string"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", 1, 0.5, True, None, [], {}]}, ALL),
        ({"const": 5}, {"integer"}),
        ({"anyOf": [{"$ref": "#/$defs/size"}, {"type": "null"}]}, {"integer", "null"}),
        ({"$ref": "#/$defs/size"}, {"integer"}),
        ({"$ref": "#/$defs/none"}, ALL),
        ({"$ref": "#/$defs/loop"}, ALL),
        ({}, ALL),
        (True, ALL),
        ({"type": "wrong"}, ALL),
    ],
)
def test_types_of_a_schema(schema, expected):
    assert types(schema, ROOT) == expected


def test_a_schema_in_itself():
    schema = {"anyOf": []}
    schema["anyOf"].append(schema)
    assert types(schema, schema) == ALL
    assert resolved({"$ref": 5}, {}) == {}


def test_nesting_without_end():
    text = "[" * 5000
    assert json.loads(as_json(text, frozenset(["array"]))) == text


@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("5", {"string"}, "5"),
        (" a \n", {"string"}, " a \n"),
        ("5", {"integer"}, 5),
        ("5", {"number", "string"}, 5),
        ("5", {"string", "null"}, "5"),
        ("null", {"string", "null"}, None),
        ("None", {"string", "null"}, None),
        ("True", {"boolean"}, True),
        ('"a"', {"string", "null"}, '"a"'),
        ('"a"', {"integer"}, "a"),
        ("a b", {"integer"}, "a b"),
        (' {"a": [1]} ', {"object"}, {"a": [1]}),
        ("{'a': [True, None, '\u65e5']}", {"object"}, {"a": [True, None, "\u65e5"]}),
        ("('a',)", {"array"}, "('a',)"),
        ("{'a': {1}}", {"object"}, "{'a': {1}}"),
        ("", {"integer", "null"}, ""),
    ],
)
def test_values_become_json(text, allowed, value):
    assert json.loads(as_json(text, frozenset(allowed))) == value
