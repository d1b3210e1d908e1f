"""Grammars of answers that call functions: what they allow, and that parsers find it."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from calls import calls, found
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models

from dllama.sampling.grammar import Grammars, GrammarText
from dllama.server.answers import Answers
from dllama.server.fields.tools import Tools
from dllama.server.tools import tool_format
from dllama.server.tools.base import Function, json_rule
from dllama.server.tools.deepseek import CALL, CALL_END, CLOSE, OPEN, SEPARATOR, DeepSeek
from dllama.server.tools.gemma import FunctionGemma, Gemma
from dllama.server.tools.glm import Glm
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.llama import Llama
from dllama.server.tools.mistral import Mistral
from dllama.server.tools.qwen_coder import QwenCoder
from dllama.text.template import ChatTemplate
from dllama.text.tokenizer import Tokenizer
from dllama.text.tokenizer_config import TokenizerConfig

DEEPSEEK = (OPEN, CLOSE, CALL, CALL_END, SEPARATOR)
SPECIAL = [
    "[TOOL_CALLS]", "[ARGS]", "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>",
    "<|call|>", "<|eom_id|>", "<|tool_call>", "<tool_call|>", '<|"|>', "<arg_key>", *DEEPSEEK,
]  # fmt: skip
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTIONS = [Function("weather", CITY), Function("add", NOTHING)]
ROME, ONE, TWO = '{"city": "Rome"}', ("weather", '{"city": "Rome"}'), ("add", "{}")
HEADER = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"
THINKS = "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant"
HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {ROME}}}\n</tool_call>'
QWEN = """<tool_call>
<function=weather>
<parameter=city>
Rome
</parameter>
</function>
</tool_call>"""
GLM = """<tool_call>weather
<arg_key>city</arg_key>
<arg_value>Rome</arg_value>
</tool_call>"""
LLAMA = '<|start_header_id|> "parameters" message.tool_calls'
CASES = [
    (Hermes, "<tool_call>", HERMES, [ONE]),
    (Hermes, "<tool_call>",
     f'{HERMES}\n<tool_call>\n{{"name": "add", "arguments": {{}}}}\n</tool_call>', [ONE, TWO]),
    (Llama, LLAMA, f'{{"name": "weather", "parameters": {ROME}}}', [ONE]),
    (Mistral, "[TOOL_CALLS]", f'[TOOL_CALLS] [{{"name": "weather", "arguments": {ROME}}}, '
     '{"name": "add", "arguments": {}}]', [ONE, TWO]),
    (Mistral, "[TOOL_CALLS]", f'[TOOL_CALLS][{{"name": "weather", "arguments": {ROME}}}]', [ONE]),
    (Mistral, "[TOOL_CALLS] [ARGS]", f"[TOOL_CALLS]weather[ARGS]{ROME}[TOOL_CALLS]add[ARGS]{{}}",
     [ONE, TWO]),
    (QwenCoder, "<function= <parameter=", QWEN, [ONE]),
    (QwenCoder, "<function= <parameter=",
     f"{QWEN}\n<tool_call>\n<function=add>\n</function>\n</tool_call>", [ONE, TWO]),
    (Glm, "<arg_key> <arg_value>", GLM, [ONE]),
    (Glm, "<arg_key> <arg_value>", f"{GLM}\n<tool_call>add\n</tool_call>", [ONE, TWO]),
    (Glm, "<arg_key> <arg_value>", GLM.replace("\n", ""), [ONE]),
    (Gemma, "<|tool_call>", '<|tool_call>call:weather{city:<|"|>Rome<|"|>}<tool_call|>', [ONE]),
    (Gemma, "<|tool_call>", '<|tool_call>call:weather{city:<|"|>Rome<|"|>}<tool_call|>'
     "<|tool_call>call:add{}<tool_call|>", [ONE, TWO]),
    (FunctionGemma, "<start_function_call>",
     "<start_function_call>call:weather{city:<escape>Rome<escape>}<end_function_call>", [ONE]),
    (DeepSeek, f"{OPEN}```json", f"{OPEN}{CALL}function{SEPARATOR}weather\n```json\n{ROME}\n```"
     f"{CALL_END}\n{CALL}function{SEPARATOR}add\n```json\n{{}}\n```{CALL_END}{CLOSE}", [ONE, TWO]),
    (DeepSeek, OPEN, f"{OPEN}{CALL}weather{SEPARATOR}{ROME}{CALL_END}{CLOSE}", [ONE]),
    (Harmony, "<|channel|> <|message|>", HEADER.format("weather", ROME), [ONE]),
    (Harmony, "<|channel|> <|message|>", THINKS + HEADER.format("add", "{}"), [TWO]),
]  # fmt: skip


def characters_and(*markers):
    """Return a tokenizer with a token for every character, special marker and other marker."""
    characters = string.ascii_letters + string.digits + string.punctuation + " \n"
    fast = Fast(models.BPE({name: at for at, name in enumerate([*SPECIAL, *characters])}, []))
    fast.decoder = decoders.Fuse()
    fast.add_special_tokens(SPECIAL)
    fast.add_tokens(list(markers))
    return Tokenizer.of(fast, TokenizerConfig(None, (), False, None))


@pytest.fixture(scope="module")
def tokenizer():
    return characters_and()


@pytest.fixture
def constraint(tokenizer):
    """constraint(source, ...): of an answer that may call one of FUNCTIONS, and its parser."""

    def make(source, forced=True, several=True, text=None, prompt="", functions=FUNCTIONS, ends=()):
        answers = Answers(tokenizer, ChatTemplate(source))
        tools = Tools([], tuple(functions), forced, several) if functions else None
        plan = answers.plan(prompt, tools, text)
        grammar = Grammars(tokenizer, Path("m")).compile(plan.grammar)
        return grammar.constraint((*plan.ends, *ends)), plan.answer()._parser

    return make


def fitting(constraint, tokenizer, text):
    """How much of a text fits, from its beginning."""
    ids = tokenizer.encode(text, add_bos=False)
    return "".join(map(tokenizer.name, ids[: constraint.fitting(ids)]))


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize(("form", "source", "text", "expected"), CASES, ids=str)
def test_texts_that_fit(tokenizer, constraint, form, source, text, expected, forced):
    several = len(expected) > 1
    ids = tokenizer.encode(text, add_bos=False)
    fits, parser = constraint(source, forced, several)
    assert isinstance(tool_format(source), form)
    assert fits.fitting(ids) == len(ids)
    for token in ids:
        assert not fits.complete
        fits.advance(token)
    may_go_on = several and not text.endswith(("}]", CLOSE))
    assert fits.complete is not may_go_on
    parsed = found(parser, [text])
    assert [part for part in parsed if part[0] != "reasoning"] == calls(*expected)


OBJECT = f'{{"name": "weather", "arguments": {ROME}}}'


@pytest.mark.parametrize(
    ("source", "text"),
    [("<tool_call>", HERMES), ("<function= <parameter=", QWEN), ("<arg_key> <arg_value>", GLM),
     ("<tool_call>", OBJECT)],
)  # fmt: skip
def test_a_line_break_forces_no_other_call(tokenizer, constraint, source, text):
    """Models write it before they know that nothing follows."""
    end = tokenizer.encode("[TOOL_CALLS]", add_bos=False)[0]
    fits, parser = constraint(source, forced=text is not OBJECT, ends=[end])
    for token in tokenizer.encode(f"{text}\n{text}\n", add_bos=False):
        fits.advance(token)
    assert fits.mask[end // 8] >> end % 8 & 1
    assert found(parser, [f"{text}\n{text}\n"]) == calls(ONE, ONE)


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize(
    ("source", "text"),
    [("<tool_call>", HERMES), ("<function= <parameter=", QWEN), ("<arg_key> <arg_value>", GLM)],
)
def test_the_end_of_a_call_is_a_token_if_there_is_one(source, text, forced):
    """A model that writes it in letters has never seen what comes then."""
    tokenizer = characters_and("<tool_call>", "</tool_call>")
    answers = Answers(tokenizer, ChatTemplate(source))
    plan = answers.plan("", Tools([], tuple(FUNCTIONS), forced, True), None)
    fits = Grammars(tokenizer, Path("m")).compile(plan.grammar).constraint(())
    ids = tokenizer.encode(f"{text}\n{text}", add_bos=False)
    assert fits.fitting(ids) == len(ids)
    begun = tokenizer.encode(text.removesuffix("</tool_call>"), add_bos=False)
    letters = [tokenizer.encode(one, add_bos=False)[0] for one in "</tool_call>"]
    assert fits.fitting([*begun, *letters]) == len(begun)


@pytest.mark.parametrize(("form", "source", "text", "expected"), CASES, ids=str)
def test_texts_that_do_not_fit(tokenizer, constraint, form, source, text, expected):
    for wrong in (text.replace("Rome", "Roma"), text.replace("add", "sub"), "x" + text):
        if wrong != text:
            assert fitting(constraint(source)[0], tokenizer, wrong) != wrong
    if len(expected) > 1:
        assert fitting(constraint(source, several=False)[0], tokenizer, text) != text


@pytest.mark.parametrize(("form", "source", "text", "expected"), CASES, ids=str)
def test_calls_are_right_where_none_has_to_come(
    tokenizer, constraint, form, source, text, expected
):
    """Any text fits that has no call; what begins a call has to go on as one."""
    fits, _ = constraint(source, forced=False)
    if form is not Harmony:
        assert fitting(fits, tokenizer, 'No <call> {"name": 1}\n') == 'No <call> {"name": 1}\n'
    wrong = text.replace("Rome", "Roma").replace("add", "sub")
    assert fitting(fits, tokenizer, wrong) != wrong


@pytest.mark.parametrize(
    "source", ["<tool_call>", "[TOOL_CALLS] [ARGS]", "<|channel|> <|message|>"]
)
def test_a_call_or_a_text_that_fits(tokenizer, constraint, source):
    asked = GrammarText("regex", "[0-9]+", "regex")
    call = next(text for _, of, text, _ in CASES if of == source)
    says = "<|channel|>final<|message|>" if "channel" in source else ""
    fits, _ = constraint(source, forced=False, text=asked)
    assert fitting(fits, tokenizer, call) == call
    assert fitting(fits, tokenizer, f"{says}42x") == f"{says}42"
    assert fitting(constraint(source, text=asked)[0], tokenizer, f"{says}42") != f"{says}42"


THOUGHT = "<think>\nThe <tool_call> is {}.\n</think>\n\n"


@pytest.mark.parametrize(
    ("prompt", "text", "fits"),
    [
        ("", f"{THOUGHT}42", True),
        ("", "42", True),
        ("", "<think>42", True),
        ("", "The42", False),
        ("<|assistant|><think>\n", f"{THOUGHT[8:]}42", True),
        ("<|assistant|><think>\n", f"{THOUGHT[8:]}Two", False),
        ("<|assistant|><think>\n\n</think>\n\n", "42", True),
        ("<|assistant|><think>\n\n</think>\n\n", THOUGHT, False),
    ],
)
@pytest.mark.parametrize("source", ["<think></think>", "<think></think> <tool_call>"])
def test_thoughts_come_before_what_fits(tokenizer, constraint, source, prompt, text, fits):
    asked = GrammarText("regex", "[0-9]+", "regex")
    made, _ = constraint(source, text=asked, prompt=prompt, functions=())
    assert (fitting(made, tokenizer, text) == text) is fits


@pytest.mark.parametrize(("forced", "after"), [(True, ""), (False, ""), (False, "Well. ")])
def test_thoughts_come_before_calls(tokenizer, constraint, forced, after):
    """What looks like a call in a thought is none."""
    fits, parser = constraint("<tool_call></think>", forced)
    text = f"{THOUGHT}{after}{HERMES}"
    assert fitting(fits, tokenizer, text) == text
    wrong = text.replace("Rome", "Roma")
    assert fitting(fits, tokenizer, wrong) != wrong
    thought = ("reasoning", "The <tool_call> is {}.")
    said = [("content", after.rstrip())] if after else []
    assert found(parser, text) == [thought, *said, *calls(ONE)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<|channel|> <|message|>",
         {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"}),
        ("[TOOL_CALLS]", {"[TOOL_CALLS]", "[ARGS]"}),
        ("<tool_call>", set()),
        ("<|tool_call>", {"<|tool_call>", "<tool_call|>", '<|"|>'}),
        (OPEN, set(DEEPSEEK)),
    ],
)  # fmt: skip
def test_only_markers_are_part_of_the_text(tokenizer, source, expected):
    answers = Answers(tokenizer, ChatTemplate(source))
    ids = answers.special_ids(tool_format(source).markers)
    assert {tokenizer.name(token) for token in ids} == expected


def test_formats_are_known_by_their_templates():
    for form, source, _, _ in CASES:
        assert isinstance(tool_format(source), form)
    assert tool_format("<tool_call>\n<function=example>\n<parameter=a>") is not None
    for source in ("", "{{ tools }}", "<function="):
        assert tool_format(source) is None
    ids = {Mistral().call_id() for _ in range(9)}
    assert len(ids) == 9
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert Hermes().call_id().startswith("call_")


VALUES = {
    "type": "object",
    "properties": {
        "size": {"$ref": "#/$defs/size"},
        "note": {"type": "string"},
        "count": {"anyOf": [{"type": "integer", "maximum": 9}, {"type": "null"}]},
        "Tags": {"type": "array", "items": {"enum": ["a", 1, True]}, "minItems": 2, "maxItems": 3},
        "any": {},
    },
    "required": ["note"],
    "additionalProperties": False,
    "$defs": {"size": {"type": "object", "properties": {
        "in": {"$ref": "#/$defs/size"}, "x": {"type": "number"}},
        "required": ["x"], "additionalProperties": False}},
}  # fmt: skip
NOTE = '{"note": "a<b>, \\"c\\""}'
ALL_VALUES = (
    '{"any": [{"b": null}, 0.5, "c"], "count": 7, "note": "", '
    '"size": {"in": {"x": 0}, "x": -1.5e3}, "Tags": ["a", 1, true]}'
)


def gemma(arguments):
    return f"<|tool_call>call:f{{{arguments}}}<tool_call|>"


def keyed(*pairs):
    rest = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in pairs)
    return f"<tool_call>\n<function=f>\n{rest}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("<|tool_call>", gemma('note:<|"|>a<b>, "c"<|"|>'), NOTE),
        ("<|tool_call>",
         gemma('any:[{b:null},0.5,<|"|>c<|"|>],count:7,note:<|"|><|"|>,size:{in:{x:0},x:-1.5e3},'
               'Tags:[<|"|>a<|"|>,1,true]'), ALL_VALUES),
        ("<|tool_call>", gemma('note:<|"|>a<|"|>,size:{}'), None),
        ("<|tool_call>", gemma('count:<|"|>a<|"|>,note:<|"|>a<|"|>'), None),
        ("<|tool_call>", gemma("count:1"), None),
        ("<|tool_call>", gemma('count:10,note:<|"|><|"|>'), None),
        ("<|tool_call>", gemma('note:<|"|><|"|>,Tags:[1]'), None),
        ("<|tool_call>", gemma('note:<|"|><|"|>,Tags:[1,1,1,1]'), None),
        ("<|tool_call>", gemma('note:<|"|>a<|"|>,other:1'), None),
        ("<function= <parameter=", keyed(("note", 'a<b>, "c"')), NOTE),
        ("<function= <parameter=",
         keyed(("size", '{"in": {"x": 0}, "x": -1.5e3}'), ("note", ""), ("count", 7),
               ("Tags", '["a", 1, true]'), ("any", '[{"b": null}, 0.5, "c"]')), ALL_VALUES),
        ("<function= <parameter=", keyed(("size", "{}"), ("note", "a")), None),
        ("<function= <parameter=", keyed(("note", "a"), ("count", "b")), None),
        ("<function= <parameter=", keyed(("count", 1)), None),
        ("<function= <parameter=", keyed(("note", "a"), ("other", "b")), None),
    ],
)  # fmt: skip
def test_arguments_that_are_not_written_as_json(tokenizer, constraint, source, text, expected):
    fits, parser = constraint(source, several=False, functions=[Function("f", VALUES)])
    assert (fitting(fits, tokenizer, text) == text) is (expected is not None)
    if expected:
        name, (_, arguments) = found(parser, text)
        assert name == ("call", "f")
        assert json.loads(arguments) == json.loads(expected)


def test_texts_for_readers_are_no_part_of_a_grammar():
    """Else large sets of functions would be too large for one."""
    notes = {"title": "T", "description": "D", "$comment": "C"}
    shown = {"const": {"title": "a"}}
    schema = {"properties": {"title": {"type": "string", **notes}, "all": [notes, shown]}, **notes}
    _, _, rule = json_rule("a", schema, True).partition("%json ")
    made = json.loads(rule)
    assert made.pop("x-guidance")["lenient"]
    assert made == {"properties": {"title": {"type": "string"}, "all": [{}, shown]}}


def test_functions_that_take_anything(tokenizer, constraint):
    anything = [Function("f", {"type": "object"})]
    for source, text in (
        ("<|tool_call>", gemma("a:{b:[1]}")),
        ("<function= <parameter=", keyed(("a", "b"), ("c", 1))),
    ):
        fits, _ = constraint(source, several=False, functions=anything)
        assert fitting(fits, tokenizer, text) == text
