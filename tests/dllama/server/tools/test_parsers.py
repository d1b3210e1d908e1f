"""Calls in answers: what each format's parser finds, however the text is cut."""

from __future__ import annotations

import json

import pytest
from calls import FUNCTIONS, calls, found

from dllama.server.tools.base import Arguments, Begin, Content
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.llama import Llama
from dllama.server.tools.mistral import Mistral

RAIN = '{"city": "Pa\\"}{ris", "days": [1, {"a": "\u65e5"}]}'
SUM = '{"a": 1, "b": {}}'


HERMES = f'<tool_call>\n{{"name": "weather", "arguments": {RAIN}}}\n</tool_call>'
HERMES_SUM = f'<tool_call>\n{{"arguments": {SUM}, "name": "add"}}\n</tool_call>'
LLAMA = f'{{"name": "weather", "parameters": {RAIN}}}'
OLD = f'[TOOL_CALLS] [{{"name": "weather", "arguments": {RAIN}, "id": "abcdefgh1"}}'
THINKS = "<|channel|>analysis<|message|>It <is>.<|end|><|start|>assistant"
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


@pytest.mark.parametrize(("form", "text", "expected"), CASES, ids=str)
def test_text_in_one_piece_in_two_and_in_characters(form, text, expected):
    assert found(form().parser(FUNCTIONS), [text]) == expected
    assert found(form().parser(FUNCTIONS), text) == expected
    for cut in range(1, len(text)):
        assert found(form().parser(FUNCTIONS), [text[:cut], text[cut:]]) == expected


@pytest.mark.parametrize(
    ("form", "text", "name"),
    [
        (Hermes, HERMES, "weather"),
        (Llama, LLAMA, "weather"),
        (Mistral, f"{OLD}]", "weather"),
        (Mistral, f"[TOOL_CALLS]weather[ARGS]{RAIN}", "weather"),
        (Harmony, f"<|channel|>commentary to=functions.weather<|message|>{RAIN}", "weather"),
    ],
)
def test_arguments_come_while_they_are_written(form, text, name):
    """Name and arguments are passed on before the next character of them comes."""
    parser = form().parser(FUNCTIONS)
    start = text.index(RAIN)
    early = parser.push(text[: start + 1])
    assert early[0] == Begin(name)
    for at in range(start + 1, start + len(RAIN)):
        assert parser.push(text[at]) == [Arguments(text[at])]
    assert json.loads(RAIN)


def test_text_is_not_held_back():
    for form in (Hermes, Llama, Mistral):
        assert form().parser(FUNCTIONS).push("Hello,") == [Content("Hello,")]
