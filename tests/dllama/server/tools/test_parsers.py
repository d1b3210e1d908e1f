"""Calls in answers: what each format's parser finds, however the text is cut."""

from __future__ import annotations

import json
import re

import pytest
from calls import FUNCTIONS, calls, found

from dllama.server.tools.base import Arguments, Begin, Content
from dllama.server.tools.deepseek import DeepSeek
from dllama.server.tools.gemma import FunctionGemma, Gemma
from dllama.server.tools.glm import Glm
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.llama import Llama
from dllama.server.tools.mistral import Mistral
from dllama.server.tools.qwen_coder import QwenCoder

RAIN = '{"city": "Pa\\"}{ris", "days": [1, {"a": "\u65e5"}]}'
SUM = '{"a": 1, "b": {}}'


HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {RAIN}}}\n</tool_call>'
HERMES_SUM = f'<tool_call>\n{{"arguments": {SUM}, "name": "add"}}\n</tool_call>'
LLAMA = f'{{"name": "weather", "parameters": {RAIN}}}'
OLD = f'[TOOL_CALLS] [{{"name": "weather", "arguments": {RAIN}, "id": "abcdefgh1"}}'
THINKS = "<|channel|>analysis<|message|>It <is>.<|end|><|start|>assistant"
TYPED = '{"city": "Pa\\"<b>\\n\u65e5", "hot": true, "days": [1, {"a": "<"}], "n": 5}'
CUT = TYPED[: TYPED.index('", "hot')]
QWEN = """<tool_call>
<function=weather>
<parameter=city>
Pa"<b>
\u65e5
</parameter>
<parameter=hot>
True
</parameter>
<parameter=days>
[1, {"a": "<"}]
</parameter>
<parameter=n>
5
</parameter>
</function>
</tool_call>"""
QWEN_ADD = """<tool_call>
<function=add>
<parameter=a>
1
</parameter>
<parameter=b>
x
</parameter>
</function>
</tool_call>"""
GLM = """<tool_call>weather
<arg_key>city</arg_key>
<arg_value>Pa"<b>
\u65e5</arg_value>
<arg_key>hot</arg_key>
<arg_value>true</arg_value>
<arg_key>days</arg_key>
<arg_value>[1, {"a": "<"}]</arg_value>
<arg_key>n</arg_key>
<arg_value>5</arg_value>
</tool_call>"""
GLM_ADD = """<tool_call>add
<arg_key>a</arg_key>
<arg_value>1</arg_value>
<arg_key>b</arg_key>
<arg_value>x</arg_value>
</tool_call>"""
GEMMA = (
    '<|tool_call>call:weather{city:<|"|>Pa"}{ris\n<|"|>,days:[1,{a:<|"|>\u65e5<|"|>}],hot:None}'
    "<tool_call|>"
)
GEMMA_JSON = '{"city": "Pa\\"}{ris\\n", "days": [1, {"a": "\u65e5"}], "hot": null}'
FUNCTION = GEMMA.replace("<|tool_call>", "<start_function_call>").replace('<|"|>', "<escape>")
FUNCTION = FUNCTION.replace("<tool_call|>", "<end_function_call>")
BEGIN, END = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
BEGINS, ENDS = BEGIN.replace("call", "calls"), END.replace("call", "calls")
SEP = "<\uff5ctool\u2581sep\uff5c>"
V3 = f"{BEGIN}function{SEP}weather\n```json\n{RAIN}\n```{END}"
V3 = f"{BEGINS}{V3}\n{BEGIN}function{SEP}add\n```json\n{SUM}\n```{END}{ENDS}"
V31 = f"{BEGINS}{BEGIN}weather{SEP}{RAIN}{END}{BEGIN}add{SEP}{SUM}{END}{ENDS}"
CASES = [
    (Hermes, "Hello < world <tool>\n", [("content", "Hello < world <tool>\n")]),
    (Hermes, "", []),
    (Hermes, HERMES, calls(("weather", RAIN))),
    (Hermes, f"Let me see.\n{HERMES}\n{HERMES_SUM}\n",
     [("content", "Let me see."), *calls(("weather", RAIN), ("add", SUM))]),
    (Hermes, HERMES.replace("\n", "").replace(": ", ":").replace("}</", "}  </"),
     calls(("weather", RAIN.replace(": ", ":")))),
    (Hermes, HERMES[:-20], calls(("weather", RAIN[:-6]))),
    (Hermes, HERMES.replace("}\n</tool_call>", ""), calls(("weather", RAIN))),
    (Hermes, '<tool_call>\n{"name": "now"}\n</tool_call> Done.',
     [*calls(("now", "{}")), ("content", "Done.")]),
    (Hermes, '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
     calls(("add", '{"a": 1}'))),
    (Hermes, "a <tool_call>b</tool_call> c", [("content", "a <tool_call>b</tool_call> c")]),
    (Hermes, 'a <tool_call>\n{"b": 1} c', [("content", 'a <tool_call>\n{"b": 1} c')]),
    (Hermes, '<tool_call>\n{"name": "ad', [("content", '<tool_call>\n{"name": "ad')]),
    (Hermes, f'```json\n{{"name": "weather", "arguments": {RAIN}}}\n```\n',
     calls(("weather", RAIN))),
    (Hermes, f'<tools>\n{{"name": "add", "arguments": {SUM}}}\n</tools>', calls(("add", SUM))),
    (Hermes, f'{{"name": "add", "arguments": {SUM}}}', calls(("add", SUM))),
    (Hermes, f'{{"name": "add", "arguments": {SUM}', calls(("add", SUM))),
    (Hermes, '{"name": "add", "arguments": {}}\n{"name": "weather", "arguments": {}}',
     calls(("add", "{}"), ("weather", "{}"))),
    (Hermes, '{"name": "add", "arguments": {}} {"name": "sub", "arguments": {}}',
     [("content", '{"name": "add", "arguments": {}} {"name": "sub", "arguments": {}}')]),
    (Hermes, f'```json\n{{"name": "add", "arguments": {SUM}}}\n```\nDone.',
     [("content", f'```json\n{{"name": "add", "arguments": {SUM}}}\n```\nDone.')]),
    (Hermes, '```json\n{"name": "sub", "arguments": {}}\n```',
     [("content", '```json\n{"name": "sub", "arguments": {}}\n```')]),
    (Hermes, "```python\n1\n```", [("content", "```python\n1\n```")]),
    (Llama, "No { call", [("content", "No { call")]),
    (Llama, LLAMA, calls(("weather", RAIN))),
    (Llama, f"\n<|python_tag|>{LLAMA}", calls(("weather", RAIN))),
    (Llama, f'{LLAMA}; {{"type": "function", "name": "add", "parameters": {SUM}}}',
     calls(("weather", RAIN), ("add", SUM))),
    (Llama, LLAMA.replace("weather", "other"),
     [("content", LLAMA.replace("weather", "other"))]),
    (Llama, '{"a": 1} and', [("content", '{"a": 1} and')]),
    (Llama, '{"a": ', [("content", '{"a": ')]),
    (Llama, "<|python_tag|>print(1)", [("content", "print(1)")]),
    (Llama, "<|py", [("content", "<|py")]),
    (QwenCoder, "Hi <tool_call> <there>", [("content", "Hi <tool_call> <there>")]),
    (QwenCoder, f"Let me see.\n\n{QWEN}\n{QWEN_ADD}\nSo.",
     [("content", "Let me see."), *calls(("weather", TYPED), ("add", '{"a": 1, "b": "x"}')),
      ("content", "So.")]),
    (QwenCoder, QWEN.removeprefix("<tool_call>\n"), calls(("weather", TYPED))),
    (QwenCoder, "<tool_call><function=add></function></tool_call>", calls(("add", "{}"))),
    (QwenCoder, "<tool_call>\n<function=add>\n<b>\n</function>\n</tool_call>",
     calls(("add", "{}"))),
    (QwenCoder, QWEN[: QWEN.index("\n</parameter>")], calls(("weather", CUT))),
    (QwenCoder, QWEN[: QWEN.index("True")], calls(("weather", TYPED[: TYPED.index("true")]))),
    (QwenCoder, "<function=ad", [("content", "<function=ad")]),
    (QwenCoder, "a <function>b", [("content", "a <function>b")]),
    (Glm, "Hi <tool_call> there", [("content", "Hi <tool_call> there")]),
    (Glm, f"So.\n{GLM}\n{GLM_ADD}",
     [("content", "So."), *calls(("weather", TYPED), ("add", '{"a": 1, "b": "x"}'))]),
    (Glm, re.sub("(_key>|_value>|weather)\n", r"\1", GLM), calls(("weather", TYPED))),
    (Glm, "<tool_call>add</tool_call>", calls(("add", "{}"))),
    (Glm, "<tool_call>add\n</tool_call> Done.", [*calls(("add", "{}")), ("content", "Done.")]),
    (Glm, "<tool_call>add up</tool_call>", [("content", "<tool_call>add up</tool_call>")]),
    (Glm, GLM[: GLM.index("</arg_value>")], calls(("weather", CUT))),
    (Gemma, "Hi <|tool> there", [("content", "Hi <|tool> there")]),
    (Gemma, f"So.{GEMMA}<|tool_call>call:add{{}}<tool_call|>",
     [("content", "So."), *calls(("weather", GEMMA_JSON), ("add", "{}"))]),
    (FunctionGemma, FUNCTION, calls(("weather", GEMMA_JSON))),
    (Gemma, '<|tool_call>call:add{ "a" : "b, \\"c", d: None }<tool_call|>',
     calls(("add", '{"a": "b, \\"c", "d": null}'))),
    (Gemma, "<|tool_call>call:add{a:Rome, b:1.5e3, true:x y}<tool_call|>",
     calls(("add", '{"a": "Rome", "b": 1.5e3, "true": "x y"}'))),
    (Gemma, "<|tool_call>call:add{a:<b>}<tool_call|>", calls(("add", '{"a": "b>"}'))),
    (Gemma, GEMMA[: GEMMA.index("}{")], calls(("weather", '{"city": "Pa\\"'))),
    (Gemma, "<|tool_call>add{}", [("content", "<|tool_call>add{}")]),
    (DeepSeek, "Hi <\uff5ctool there", [("content", "Hi <\uff5ctool there")]),
    (DeepSeek, f"So.\n{V3}", [("content", "So."), *calls(("weather", RAIN), ("add", SUM))]),
    (DeepSeek, V31, calls(("weather", RAIN), ("add", SUM))),
    (DeepSeek, f"{V31}\nSo.", [*calls(("weather", RAIN), ("add", SUM)), ("content", "So.")]),
    (DeepSeek, V31[: V31.index("]}")], calls(("weather", RAIN[:-2]))),
    (Mistral, "Hi [TOOL] there", [("content", "Hi [TOOL] there")]),
    (Mistral, f"{OLD}]", calls(("weather", RAIN))),
    (Mistral, f'{OLD}, {{"name": "add", "arguments": {SUM}}}]',
     calls(("weather", RAIN), ("add", SUM))),
    (Mistral, f"Wait.[TOOL_CALLS]weather[ARGS]{RAIN}[TOOL_CALLS]add[CALL_ID]abcdefgh1[ARGS]{SUM}",
     [("content", "Wait."), *calls(("weather", RAIN), ("add", SUM))]),
    (Mistral, f"[TOOL_CALLS]weather{RAIN}", calls(("weather", RAIN))),
    (Mistral, "[TOOL_CALLS]nothing else", [("content", "nothing else")]),
    (Mistral, f"[TOOL_CALLS]add[ARGS]{SUM[:-3]}", calls(("add", SUM[:-3]))),
    (Harmony, f"{THINKS}<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
              f"{RAIN}<|call|>", [("reasoning", "It <is>."), *calls(("weather", RAIN))]),
    (Harmony, f" to=functions.add<|channel|>commentary json<|message|>{SUM}", calls(("add", SUM))),
    (Harmony, f"{THINKS}<|channel|>final<|message|>Two < three|>.<|return|>",
     [("reasoning", "It <is>."), ("content", "Two < three|>.")]),
    (Harmony, "<|channel|>commentary<|message|>Look:<|end|><|start|>assistant<|channel|>commentary "
              f"to=functions.add <|constrain|>json<|message|>{SUM}",
     [("content", "Look:"), *calls(("add", SUM))]),
    (Harmony, "plain <text", [("content", "plain <text")]),
    (Harmony, "<|channel|>fin", []),
]  # fmt: skip


def parser(form):
    return form().parser(FUNCTIONS)


@pytest.mark.parametrize(("form", "text", "expected"), CASES, ids=str)
def test_text_in_one_piece_in_two_and_in_characters(form, text, expected):
    assert found(parser(form), [text]) == expected
    assert found(parser(form), text) == expected
    for cut in range(1, len(text)):
        assert found(parser(form), [text[:cut], text[cut:]]) == expected


@pytest.mark.parametrize(
    ("form", "text", "name"),
    [
        (Hermes, HERMES, "weather"),
        (Llama, LLAMA, "weather"),
        (Mistral, f"{OLD}]", "weather"),
        (Mistral, f"[TOOL_CALLS]weather[ARGS]{RAIN}", "weather"),
        (Harmony, f"<|channel|>commentary to=functions.weather<|message|>{RAIN}", "weather"),
        (DeepSeek, V31, "weather"),
    ],
)
def test_arguments_come_while_they_are_written(form, text, name):
    """Name and arguments are passed on before the next character of them comes."""
    made = parser(form)
    start = text.index(RAIN)
    early = made.push(text[: start + 1])
    assert early[0] == Begin(name)
    for at in range(start + 1, start + len(RAIN)):
        assert made.push(text[at]) == [Arguments(text[at])]
    assert json.loads(RAIN)


def test_text_is_not_held_back():
    for form in (Hermes, Llama, Mistral):
        assert parser(form).push("Hello,") == [Content("Hello,")]


@pytest.mark.parametrize(("form", "text"), [(QwenCoder, QWEN), (Glm, GLM), (Gemma, GEMMA)])
def test_strings_come_while_they_are_written(form, text):
    made = parser(form)
    start = text.index("Pa")
    assert made.push(text[:start])[0] == Begin("weather")
    assert made.push("P")[-1] == Arguments("P")
    assert made.push('a"') == [Arguments('a\\"')]
