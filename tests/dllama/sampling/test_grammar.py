"""Grammars and constraints over the tokens of the demo model, against what may begin a text."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from dllama.errors import ConfigError, GrammarError
from dllama.model_path import DEMO
from dllama.sampling.grammar import Grammars, GrammarText
from dllama.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.open(DEMO)
GRAMMARS = Grammars(TOKENIZER, Path("model.m"))
(EOS,) = TOKENIZER.eos_ids
SPELT = [TOKENIZER.spell(token) for token in range(TOKENIZER.vocab_size)]
TEXTS = [token for token in range(TOKENIZER.vocab_size) if not TOKENIZER.is_special(token)]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["friend", "foe", None]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
}


def constraint(kind, value, ends=(EOS,)):
    return GRAMMARS.compile(GrammarText(kind, value, kind)).constraint(ends)


def ids_of(mask) -> list[int]:
    return np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()


def random_text(made, rng) -> bytes:
    """A text of tokens that a constraint allows, up to where nothing more is."""
    text = b""
    while not made.complete:
        token = int(rng.choice(ids_of(made.mask)))
        if token == EOS:
            break
        made.advance(token)
        text += SPELT[token]
    return text


CHOICES = ["yes", "no", "yes sir", "yes, my lord", "nay"]


def test_a_mask_has_the_tokens_with_which_a_choice_can_go_on(rng):
    """All of them, or where the next byte is certain, the one that the tokenizer would choose."""
    seen = set()
    for _ in range(60):
        made, text = constraint("choice", CHOICES), b""
        while True:
            fits = [one.encode() for one in CHOICES if one.encode().startswith(text)]
            expected = {
                token
                for token in TEXTS
                if any(one.startswith(SPELT[token], len(text)) for one in fits)
            }
            found, may_end = set(ids_of(made.mask)), text in fits
            if fits == [text]:
                assert made.complete
                break
            assert (EOS in found) == may_end
            if may_end or len({one[len(text)] for one in fits}) > 1:
                assert found - {EOS} == expected
            else:
                assert found
                assert found <= expected
            token = int(rng.choice(sorted(found)))
            if token == EOS:
                break
            made.advance(token)
            text += SPELT[token]
        seen.add(text.decode())
    assert seen == set(CHOICES)


@pytest.mark.parametrize("compact", [False, True])
def test_any_allowed_text_fits_the_schema(compact, rng):
    value = json.dumps(PERSON) if compact else PERSON
    for _ in range(10):
        found = json.loads(random_text(constraint("schema", value), rng))
        assert list(found) == list(PERSON["properties"])
        assert len(found["name"]) <= 12
        assert type(found["age"]) is int
        assert 0 <= found["age"] <= 150
        assert found["kind"] in PERSON["properties"]["kind"]["enum"]
        assert len(found["tags"]) <= 3
        assert all(type(one) is bool for one in found["tags"])


def test_between_the_values_of_json_is_one_space_or_line_break():
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2}
    for text, fits in [
        ("[1,2]", True), ("[ 1, 2 ]", True), ("[\n  1,\n  2\n]", True),
        ("[  1,2]", False), ("[\n\n1,2]", False), ("\n[1,2]", False), ("[1,2] ", False),
    ]:  # fmt: skip
        ids = [TOKENIZER.encode(one, add_bos=False)[-1] for one in text]
        made = constraint("schema", schema)
        assert (made.fitting(ids) == len(ids)) == fits, text


@pytest.mark.parametrize(
    ("kind", "value", "pattern"),
    [
        ("regex", r"[A-Z]{2,5}: (ay|no)[!?]", r"[A-Z]{2,5}: (ay|no)[!?]"),
        ("regex", "ü{2}|€", "ü{2}|€"),
        ("grammar", 'start: "a" /[bc]{1,3}/ "d"', "a[bc]{1,3}d"),
        ("grammar", 'root ::= "a" tail\ntail ::= [bc] "d"', "a[bc]d"),
        ("choice", "a single one", "a single one"),
        ("schema", {"const": "</s> <|end_of_text|>"}, '"</s> <\\|end_of_text\\|>"'),
    ],
)
def test_kinds(kind, value, pattern, rng):
    for _ in range(10):
        assert re.fullmatch(pattern, random_text(constraint(kind, value), rng).decode())


def ahead(kind, value, taken, rng):
    """Up to five ids after those that were taken, and the masks before and after each of them."""
    made, path, masks = constraint(kind, value), [], []
    for token in taken:
        made.advance(token)
    while not made.complete:
        masks.append(made.mask)
        token = int(rng.choice(ids_of(made.mask)))
        if token == EOS or len(path) == 5:
            break
        path.append(token)
        made.advance(token)
    return path, masks


@pytest.mark.parametrize(
    ("kind", "value"),
    [("schema", PERSON), ("regex", "(ab|cd|[e-z ]{1,4}[.,])+"), ("choice", CHOICES)],
    ids=["schema", "regex", "choice"],
)
def test_drafts_are_masked_as_if_they_were_taken(kind, value, rng):
    """And what was only tried changes nothing."""
    tried, plain, taken = constraint(kind, value), constraint(kind, value), []
    while not plain.complete and len(taken) < 30:
        path, expected = ahead(kind, value, taken, rng)
        assert tried.fitting([*path, EOS, *path]) == len(path)
        assert tried.fitting([*path, 3, 4, 2047]) >= len(path)
        found = tried.masks(path)
        assert [mask.tolist() for mask in found] == [mask.tolist() for mask in expected]
        assert (tried.mask == plain.mask).all()
        if not path:
            break
        taken.append(path[0])
        for one in (tried, plain):
            one.advance(path[0])
    assert taken


@pytest.mark.parametrize("wrong", [EOS, 2048, 2049, 1 << 31])
def test_ids_that_are_no_tokens_of_a_text_do_not_fit(wrong):
    letter = TOKENIZER.encode("a", add_bos=False)[-1]
    made = constraint("regex", "[a-z]+")
    made.advance(letter)
    before = made.mask.copy()
    assert made.fitting([letter, wrong, letter]) == 1
    assert len(made.masks([letter])) == 2
    made.advance(letter)
    assert (made.mask == before).all()


def test_where_a_text_may_end_all_ends_are_allowed():
    made = constraint("regex", "[0-9]+", ends=(EOS, 5, 9999))
    assert EOS not in ids_of(made.mask)
    made.advance(TOKENIZER.encode("7", add_bos=False)[-1])
    assert {EOS, 5} <= set(ids_of(made.mask))
    assert not made.complete
    without = constraint("regex", "[0-9]{1}", ends=())
    without.advance(TOKENIZER.encode("7", add_bos=False)[-1])
    assert without.complete


WRONG = [
    ("schema", {"type": "obj"}, "schema: Invalid type: obj"),
    ("schema", "{", "schema: Expecting property name enclosed in double quotes"),
    ("schema", {"not": {}}, 'schema: Unimplemented keys: ["not"]'),
    ("schema", {"type": "string", "pattern": "(?=a)b"}, "schema: look-around, including look-"),
    ("schema", False, "schema: "),
    ("schema", "[" * 100_000, "schema: "),
    ("schema", {"$ref": "#/nowhere"}, "schema: Pointer '/nowhere' does not exist"),
    ("regex", "[", "regex: unclosed character class"),
    ("regex", "(" * 5000, "regex: "),
    ("regex", "", "regex: no text of the model's tokens fits"),
    ("regex", "a?" * 14_000, "regex: initial lexer configuration (grammar) too big"),
    ("regex", "a" * (1 << 17), "regex: a grammar of 131"),
    ("regex", 5, "regex: found int, expected a regular expression"),
    ("regex", "\ud800", "regex: "),
    ("grammar", "start: foo", 'grammar: at 1(8): unknown name: "foo"'),
    ("grammar", "nothing", "grammar: "),
    ("grammar", "start: " + "(" * 100_000, "grammar: "),
    ("grammar", "root ::= " + "(" * 10_000, "grammar: "),
    ("choice", ["a", ""], "choice: expected texts that are not empty"),
    ("choice", ["a", 5], "choice: found int, expected texts"),
    ("choice", [], "choice: expected texts that are not empty"),
    ("choice", 5, "choice: expected texts that are not empty"),
]


@pytest.mark.parametrize(("kind", "value", "message"), WRONG, ids=lambda one: str(one)[:20])
def test_what_cannot_be_compiled_is_one_line(kind, value, message):
    with pytest.raises(ConfigError) as raised:
        constraint(kind, value)
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_a_lenient_schema_leaves_out_what_a_grammar_cannot_say(rng):
    items = {"type": "boolean"}
    schema = {"type": "array", "items": items, "maxItems": 2, "uniqueItems": True}
    grammar = GRAMMARS.compile(GrammarText("schema", schema, "schema", lenient=True))
    assert len(json.loads(random_text(grammar.constraint([EOS]), rng))) <= 2


def test_grammars_may_name_special_tokens():
    made = constraint("grammar", "start: <|start_header_id|> /ab/ <|end_header_id|>")
    spelt = b""
    while not made.complete:
        token = max(ids_of(made.mask))
        made.advance(token)
        spelt += SPELT[token]
    assert spelt == b"<|start_header_id|>ab<|end_header_id|>"


def test_only_one_can_be_given():
    assert GrammarText.of(schema=None, regex=None) is None
    assert GrammarText.of(schema=None, regex="a") == GrammarText("regex", "a", "regex")
    with pytest.raises(ConfigError, match=r"^schema and regex: only one of them can be given$"):
        GrammarText.of(schema={}, regex="a")


def test_what_grammars_need(monkeypatch):
    text = GrammarText("regex", "a", "regex")
    with pytest.raises(ConfigError, match=r"^regex needs a tokenizer, and model\.m has none$"):
        Grammars(None, Path("model.m")).compile(text)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"^regex needs llguidance: pip install 'dllama\[gramm"):
        GRAMMARS.compile(text)


def test_the_only_token_that_may_come_is_certain(rng):
    seen = set()
    for kind, value in [("schema", PERSON), ("choice", CHOICES), ("regex", "[a-c]x{3}[0-9]?y*")]:
        made = constraint(kind, value)
        while not made.complete:
            ids = ids_of(made.mask)
            certain = ids[0] if len(ids) == 1 and ids != [EOS] else None
            assert made.certain == certain
            seen.add(certain is None)
            token = int(rng.choice(ids))
            if token == EOS:
                break
            made.advance(token)
    assert seen == {False, True}


def test_an_ambiguous_grammar_fails_before_it_takes_long():
    """One of JSON in which values nest and repeat does not."""
    made = constraint("grammar", 'start: s\ns: s s s | s s | /[a-z ]/ | ""')
    with pytest.raises(GrammarError, match=r"^grammar cannot go on: .*[Tt]oo many items"):
        made.masks(TOKENIZER.encode("a", add_bos=False) * 100)
    made = constraint("schema", {"type": "object"})
    text = json.dumps({"a": [{"b": [1, -2.5e3, None, "c d"] * 3}] * 3, "e": [[[]], {"f": {}}]})
    ids = TOKENIZER.encode(text, add_bos=False)
    assert len(made.masks(ids)) >= len(ids)
