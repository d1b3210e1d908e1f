"""The fields of a request that say what its text is to fit."""

from __future__ import annotations

from typing import Any

from dllama.sampling.grammar import GrammarText
from dllama.server.fields.json_object import Fields, required, wrong
from dllama.server.problems import ApiError

ANY_OBJECT: dict[str, Any] = {"type": "object"}
FORMATS = ("text", "json_object", "json_schema")


def take_grammar(fields: Fields) -> GrammarText | None:
    """Take response_format, regex, choice and grammar; None if there is none of them.

    Raises:
        ApiError: 400: one is wrong, or there are several.
    """
    return only_one(
        _response_format(fields.take("response_format")),
        _text(fields, "regex"),
        _choice(fields.take("choice")),
        _text(fields, "grammar"),
    )


def only_one(*texts: GrammarText | None) -> GrammarText | None:
    """Return the one of some texts that is there, or None; ApiError 400 if there are several."""
    given = [text for text in texts if text]
    if len(given) > 1:
        names = " and ".join(text.name.partition(".")[0] for text in given)
        raise ApiError(
            400, f"{names}: a request can have only one of them",
            param=given[1].name.partition(".")[0], code="invalid_value",
        )  # fmt: skip
    return given[0] if given else None


def _text(fields: Fields, kind: str) -> GrammarText | None:
    value = fields.text(kind)
    return None if value is None else GrammarText(kind, value, kind)


def _choice(value: object) -> GrammarText | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise wrong("choice", value, "a list of non-empty strings")
    return GrammarText("choice", value, "choice")


def _response_format(value: object) -> GrammarText | None:
    """Return what OpenAI's response_format asks for; None for any text."""
    if value is None:
        return None
    fields = Fields(value, "response_format.")
    kind = fields.word("type", FORMATS)
    if kind == "json_schema":
        text: GrammarText | None = _json_schema(fields.take("json_schema"))
    elif kind == "json_object":
        text = schema_text(fields.take("schema"), "response_format.schema", strict=True)
    else:
        text = None
    fields.end()
    return text


def _json_schema(value: object) -> GrammarText:
    """Return a schema that is wrapped as in OpenAI's API."""
    name = "response_format.json_schema"
    if value is None:
        raise required(name)
    fields = Fields(value, f"{name}.")
    schema, strict = fields.take("schema"), fields.boolean("strict")
    fields.ignore(["name", "description"])
    fields.end()
    return schema_text(schema, f"{name}.schema", strict)


def schema_text(value: object, name: str, strict: bool) -> GrammarText:
    """Return a schema; without one, any object."""
    if value is None:
        return GrammarText("schema", ANY_OBJECT, name)
    if not isinstance(value, dict):
        raise wrong(name, value, "a JSON schema, which is an object")
    return GrammarText("schema", value, name, lenient=not strict)
