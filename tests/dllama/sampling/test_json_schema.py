"""Schemas whose objects have only the properties that are named."""

from __future__ import annotations

import pytest

from dllama.sampling.json_schema import closed

NAME = {"properties": {"name": {"type": "string"}}}
CLOSED = {**NAME, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (NAME, CLOSED),
        ({"properties": {"properties": NAME}},
         {"properties": {"properties": CLOSED}, "additionalProperties": False}),
        ({"items": NAME}, {"items": CLOSED}),
        ({"anyOf": [NAME, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#", "$defs": {"a": NAME}}, {"$ref": "#", "$defs": {"a": CLOSED}}),
        ({"additionalProperties": NAME}, {"additionalProperties": CLOSED}),
    ],
    ids=str,
)  # fmt: skip
def test_objects_that_name_their_properties_are_closed(schema, expected):
    before = repr(schema)
    assert closed(schema) == expected
    assert repr(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        True, {}, {"type": "object"}, {"const": NAME}, {"enum": [NAME]}, {"default": NAME},
        {**NAME, "additionalProperties": True}, {**NAME, "patternProperties": {}}, CLOSED,
        {"allOf": [NAME, NAME]}, {"properties": {"a": {"allOf": [NAME]}}},
        {**NAME, "$ref": "#/$defs/a", "$defs": {"a": NAME}}, {**NAME, "anyOf": [NAME]},
        {"items": 5, "anyOf": 5, "$defs": 5}, 5, None,
    ],
    ids=str,
)  # fmt: skip
def test_others_stay_as_they_are(schema):
    assert closed(schema) == schema
