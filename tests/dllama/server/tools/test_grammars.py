"""Grammars of answers that call functions: what they allow, and that parsers find it."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from calls import NAMES, calls, found
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models

from dllama.sampling.grammar import Grammars, GrammarText
from dllama.server.served import Served
from dllama.server.tools import ALL, tool_format
from dllama.server.tools.base import Function
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.llama import Llama
from dllama.server.tools.mistral import Mistral
from dllama.text.template import ChatTemplate
from dllama.text.tokenizer import Tokenizer
from dllama.text.tokenizer_config import TokenizerConfig

SPECIAL = [
    "[TOOL_CALLS]", "[ARGS]", "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>",
    "<|call|>", "<|eom_id|>",
]  # fmt: skip
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTIONS = [Function("weather", CITY), Function("add", NOTHING)]
ROME, ONE, TWO = '{"city": "Rome"}', ("weather", '{"city": "Rome"}'), ("add", "{}")
HEADER = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}"
THINKS = "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant"
HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {ROME}}}\n</tool_call>'
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
    (Harmony, "<|channel|> <|message|>", HEADER.format("weather", ROME), [ONE]),
    (Harmony, "<|channel|> <|message|>", THINKS + HEADER.format("add", "{}"), [TWO]),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    """Every character is a token, and so is every special marker."""
    characters = string.ascii_letters + string.digits + string.punctuation + " \n"
    fast = Fast(models.BPE({name: at for at, name in enumerate([*SPECIAL, *characters])}, []))
    fast.decoder = decoders.Fuse()
    fast.add_special_tokens(SPECIAL)
    return Tokenizer.of(fast, TokenizerConfig(None, (), False, None))


def constraint(tokenizer, source, several):
    """The constraint of an answer that calls one of FUNCTIONS."""
    form = tool_format(source)
    served = Served("m", 0, 99, tokenizer.vocab_size, tokenizer, ChatTemplate(source))
    text = form.grammar(FUNCTIONS, several, served._marker, source)
    grammar = Grammars(tokenizer, Path("m")).compile(GrammarText("grammar", text, "tools"))
    return grammar.constraint(served.special_ids(form.ends))


@pytest.mark.parametrize(("form", "source", "text", "expected"), CASES, ids=str)
def test_texts_that_fit(tokenizer, form, source, text, expected):
    several = len(expected) > 1
    ids = tokenizer.encode(text, add_bos=False)
    fits = constraint(tokenizer, source, several)
    assert fits.fitting(ids) == len(ids)
    for token in ids:
        assert not fits.complete
        fits.advance(token)
    may_go_on = several and not text.endswith("}]")
    assert fits.complete is not may_go_on
    parsed = found(form().parser(NAMES), [text])
    assert [part for part in parsed if part[0] != "reasoning"] == calls(*expected)


@pytest.mark.parametrize(("form", "source", "text", "expected"), CASES, ids=str)
def test_texts_that_do_not_fit(tokenizer, form, source, text, expected):
    for wrong in (text.replace("Rome", "Roma"), text.replace("add", "sub"), "x" + text):
        if wrong != text:
            ids = tokenizer.encode(wrong, add_bos=False)
            assert constraint(tokenizer, source, True).fitting(ids) < len(ids)
    if len(expected) > 1:
        ids = tokenizer.encode(text, add_bos=False)
        assert constraint(tokenizer, source, False).fitting(ids) < len(ids)


def test_only_markers_are_part_of_the_text(tokenizer):
    served = Served("m", 0, 99, tokenizer.vocab_size, tokenizer, ChatTemplate(""))
    names = {
        form: {tokenizer.name(token) for token in served.special_ids(form.markers)} for form in ALL
    }
    harmony, mistral, hermes, llama = names.values()
    assert harmony == {name for name in SPECIAL if name.startswith("<") and "eom" not in name}
    assert (mistral, hermes, llama) == ({"[TOOL_CALLS]", "[ARGS]"}, set(), set())


def test_formats_are_known_by_their_templates():
    assert [type(form) for form in ALL] == [Harmony, Mistral, Hermes, Llama]
    for form, source, _, _ in CASES:
        assert isinstance(tool_format(source), form)
    for source in ("", "{{ tools }}", "<tool_call>\n<function=", "<tool_call><arg_key>"):
        assert tool_format(source) is None
    ids = {Mistral().call_id() for _ in range(9)}
    assert len(ids) == 9
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert Hermes().call_id().startswith("call_")
