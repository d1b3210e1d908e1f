"""Schemas whose objects and integers have bounds."""

from __future__ import annotations

import pytest

from dllama.sampling.json_schema import LARGEST, bounded, closed

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


@pytest.mark.parametrize(
    ("schema", "bounds"),
    [
        ({"type": "integer"}, (-LARGEST, LARGEST)),
        ({"type": ["integer", "null"], "minimum": 3}, (3, LARGEST)),
        ({"type": "integer", "exclusiveMaximum": 5.5}, (-LARGEST, LARGEST)),
        ({"type": "integer", "minimum": -4, "maximum": 4}, (-4, 4)),
    ],
    ids=str,
)
def test_integers_have_bounds(schema, bounds):
    expected = {**schema, "minimum": bounds[0], "maximum": bounds[1]}
    assert bounded(schema) == expected
    assert bounded({"properties": {"a": {"allOf": [schema]}}, "default": schema}) == {
        "properties": {"a": {"allOf": [expected]}}, "default": schema,
    }  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number"}, {"type": ["integer", "number"]}, {"type": "string"}, {}, True, 5,
        {"type": "integer", "enum": [10**20]}, {"type": "integer", "const": 10**20},
        {"type": "integer", "minimum": 10**20}, {"type": "integer", "maximum": "5"},
        {"type": {}}, {"type": 5},
    ],
    ids=str,
)  # fmt: skip
def test_other_numbers_stay_as_they_are(schema):
    assert bounded(schema) == schema
