"""Texts that fit a grammar: what requests ask for, and what OpenAI's client gets."""

from __future__ import annotations

import json
import re
from typing import Literal

import openai
import pydantic
import pytest
from refusals import refused
from serving import http

from dllama.errors import GrammarError
from dllama.sampling.grammar import GrammarText
from dllama.server.apis.chat import parse_chat
from dllama.server.apis.completions import parse_completion

ASKED = [{"role": "user", "content": "Who are you?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
OPENAI = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
STRICT = {"type": "json_schema", "json_schema": {**OPENAI["json_schema"], "strict": True}}
FIELD = "response_format.json_schema.schema"


class Person(pydantic.BaseModel):
    """What a client asks for."""

    name: Literal["Macbeth", "Banquo", "Lady Macbeth"]
    age: int = pydantic.Field(le=99, ge=0)
    kin: list[Literal["son", "wife"]] = pydantic.Field(max_length=2)


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}},
         GrammarText("schema", {"type": "object"}, "response_format.schema")),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}},
         GrammarText("schema", SCHEMA, "response_format.schema")),
        ({"response_format": OPENAI}, GrammarText("schema", SCHEMA, FIELD, lenient=True)),
        ({"response_format": STRICT}, GrammarText("schema", SCHEMA, FIELD)),
        ({"regex": "a+"}, GrammarText("regex", "a+", "regex")),
        ({"choice": ["a", "b"]}, GrammarText("choice", ["a", "b"], "choice")),
        ({"grammar": "start: X"}, GrammarText("grammar", "start: X", "grammar")),
    ],
    ids=str,
)  # fmt: skip
def test_grammars(fields, grammar):
    assert parse_chat({"messages": ASKED, **fields}).options.grammar == grammar
    assert parse_completion({"prompt": "a", **fields}).options.grammar == grammar


WRONG = [
    ({"response_format": "json"}, "response_format", "expected a JSON object"),
    ({"response_format": {}}, "response_format.type", "one of text, json_object, json_schema"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "is 'xml', expected one of"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, FIELD, "is []"),
    ({"response_format": {"type": "json_schema", "json_schema": {"strict": 1}}},
     "response_format.json_schema.strict", "expected true or false"),
    ({"response_format": {"type": "json_schema", "json_schema": {"shema": {}}}},
     "response_format.json_schema.shema", "unknown field"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema", "unknown"),
    ({"regex": 5}, "regex", "expected a string"),
    ({"choice": "a"}, "choice", "expected a list of non-empty strings"),
    ({"choice": ["a", ""]}, "choice", "expected a list of non-empty strings"),
    ({"grammar": {}}, "grammar", "expected a string"),
    ({"grammar": "start: X", "response_format": STRICT}, "grammar", "only one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "message"), WRONG, ids=str)
def test_wrong_fields(fields, param, message):
    with refused(param, message):
        parse_chat({"messages": ASKED, **fields})


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {**STRICT, "json_schema": {"schema": {"not": {}}, "strict": True}}},
         FIELD, 'schema: Unimplemented keys: ["not"]'),
        ({"response_format": {**STRICT, "json_schema": {"schema": {"type": "obj"}}}},
         FIELD, "schema: Invalid type: obj"),
        ({"regex": "("}, "regex", "regex: unclosed group"),
        ({"grammar": "start: foo"}, "grammar", "grammar: at 1"),
        ({"choice": []}, "choice", "choice: expected texts"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_compiled_names_the_field(server, fields, param, message):
    status, _, body = http(f"{server.url}/v1/completions", {"prompt": "KING", **fields})
    error = json.loads(body)["error"]
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert message in error["message"]
    assert "\n" not in error["message"]


def test_openai_parses_a_model(client):
    asked = {"model": "demo", "messages": ASKED, "response_format": Person, "max_tokens": 100}
    answer = client.chat.completions.parse(**asked)
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person)
    assert Person.model_validate_json(answer.choices[0].message.content) == person
    assert answer.choices[0].finish_reason == "stop"
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
    assert stream.get_final_completion().choices[0].message.parsed == person
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**asked, "max_tokens": 5})


def test_json_objects(client):
    answer = client.chat.completions.create(
        model="demo", messages=ASKED, response_format={"type": "json_object"}, max_tokens=60
    )
    (choice,) = answer.choices
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert type(json.loads(choice.message.content)) is dict
    cut = client.chat.completions.create(
        model="demo", messages=ASKED, response_format=OPENAI, max_tokens=4
    )
    assert cut.choices[0].finish_reason == "length"


def test_grammars_of_completions_are_those_of_the_engine(client, expected):
    for fields in (
        {"regex": "[A-Z]{3,6}:( [a-z]{2,7}){2}"},
        {"choice": ["MACBETH", "BANQUO"]},
        {"grammar": 'root ::= [A-Z]+ "\\n"'},
    ):
        answer = client.completions.create(
            model="demo", prompt="Enter KING.\n", max_tokens=40, extra_body=fields
        )
        tokens = expected("Enter KING.\n", 40, **fields)
        assert answer.choices[0].text == "".join(token.text for token in tokens)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == len(tokens)
        if "regex" in fields:
            assert re.fullmatch(fields["regex"], answer.choices[0].text)


def test_a_grammar_that_becomes_too_complex_is_an_error_of_the_request(server, monkeypatch):
    def constrain(self, ids):
        raise GrammarError("regex cannot go on: too many states")

    monkeypatch.setattr("dllama.scheduling.generation.Generation.constrain", constrain)
    status, _, body = http(f"{server.url}/v1/completions", {"prompt": "KING", "regex": "a+"})
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "grammar_too_complex")
    assert error["message"] == "regex cannot go on: too many states"
