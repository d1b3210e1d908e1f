"""Calls and their results in the messages of a request, as templates of some formats want them."""

from __future__ import annotations

import pytest
from calls import calls, found

from dllama.model_path import DEMO
from dllama.server.answers import Answers
from dllama.server.tools.base import Function
from dllama.server.tools.deepseek import OPEN, DeepSeek
from dllama.server.tools.gemma import Gemma
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.told import Told, tell
from dllama.text.template import ChatTemplate
from dllama.text.tokenizer import Tokenizer

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "\u65e5"}}}
USER = {"role": "user", "content": "Rain?"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
RESULTS = [
    {"role": "tool", "content": '{"rain": 1}', "name": "f"},
    {"role": "tool", "content": "[1]"},
]
ANSWER = {"role": "assistant", "content": "Yes."}
RESPONSES = [{"name": "f", "response": {"rain": 1}}, {"name": "unknown", "response": "[1]"}]


def test_gemma_has_results_in_the_message_with_the_calls():
    messages = [USER, CALLS, *RESULTS, ANSWER, USER]
    merged = {**CALLS, "tool_responses": RESPONSES}
    source = "{{ message['tool_responses'] }}"
    assert Gemma().history(messages, source) == [USER, {**merged, "content": "Yes."}, USER]
    assert Gemma().history(messages[:4], source) == [USER, merged]
    again = [USER, CALLS, *RESULTS, CALLS, RESULTS[0], ANSWER]
    assert Gemma().history(again, source) == [
        USER, merged, {**CALLS, "content": "Yes.", "tool_responses": RESPONSES[:1]},
    ]  # fmt: skip
    assert Gemma().history(messages, f"{source} message['role'] == 'tool'") is messages


def test_deepseek_has_arguments_as_text():
    function = {"name": "f", "arguments": '{"a": "\u65e5"}'}
    called = [{"id": "1", "type": "function", "function": function}] * 2
    for text, content in (("", None), ("So.", "So.")):
        made = DeepSeek().history([USER, {**CALLS, "content": text}, *RESULTS], "")
        assert made == [
            USER, {"role": "assistant", "content": content, "tool_calls": called}, *RESULTS,
        ]  # fmt: skip


def test_harmony_has_another_name_for_thoughts():
    """Beside calls its templates take content or a thought, not both."""
    message = {"role": "assistant", "content": "", "reasoning_content": "Hm."}
    calls = {**message, "content": "So.", "tool_calls": [{}]}
    thought = {**message, "thinking": "Hm."}
    assert Harmony().history([message, calls, USER], "") == [thought, calls, USER]


def test_others_take_messages_as_they_are():
    messages = [USER, CALLS, *RESULTS, ANSWER]
    assert Hermes().history(messages, "") is messages


def test_calls_as_text_for_templates_without_functions():
    call = '<tool_call>\n{"name": "f", "arguments": {"a": "\\u65e5"}}\n</tool_call>'
    first, second = (f"<tool_response>\n{one['content']}\n</tool_response>" for one in RESULTS)
    results = {"role": "user", "content": f"{first}\n{second}"}
    text = {"role": "assistant", "content": f"{call}\n{call}"}
    messages = [USER, CALLS, *RESULTS, ANSWER, USER]
    assert Told().history(messages, "") == [USER, text, results, ANSWER, USER]
    said = {**CALLS, "content": "So."}
    made = Told().history([said, *RESULTS, USER], "")
    joined = {"role": "user", "content": f"{first}\n{second}\nRain?"}
    assert made == [{"role": "assistant", "content": f"So.\n{call}\n{call}"}, joined]


def test_a_message_tells_of_functions():
    tools = [{"function": {"name": "f"}}, {"function": {"name": "g"}}]
    system = {"role": "system", "content": "Be short."}
    (told,) = tell([], tools, "EXAMPLE")
    assert told["role"] == "user"
    assert '{"function": {"name": "f"}}\n{"function": {"name": "g"}}' in told["content"]
    text = told["content"]
    assert text.endswith("form:\nEXAMPLE")
    assert tell([USER, ANSWER], tools, "EXAMPLE") == [
        {**USER, "content": f"{text}\n\nRain?"},
        ANSWER,
    ]
    both = tell([system, USER], tools, "EXAMPLE")
    assert both == [{**system, "content": f"Be short.\n\n{text}"}, USER]
    assert tell([ANSWER], tools, "EXAMPLE") == [told, ANSWER]


@pytest.mark.parametrize("form", [DeepSeek, Told])
@pytest.mark.parametrize("source", ["", "```json"])
def test_examples_are_calls(form, source):
    """They are what the parser finds."""
    text = form().example(source).partition("\nYou")[0]
    named = [Function("NAME", {"type": "object"})]
    assert found(form().parser(named), text) == calls(("NAME", '{"KEY": "VALUE"}'))
    assert Hermes().example(source) == ""


def test_templates_that_show_no_functions():
    tokenizer = Tokenizer.open(DEMO)
    tools = [{"type": "function", "function": {"name": "f"}}]
    for source, example, kept in (
        ("{{ messages }}", "<tool_call>", False),
        (OPEN, OPEN, False),
        (f"{{{{ tools }}}} {OPEN}", "", True),
        ("<tool_call>", "<tool_call>", False),
        ("{{ tools }} <tool_call>", "", True),
        ("{{ tools }}", "<tool_call>", False),
    ):
        answers = Answers(tokenizer, ChatTemplate(source))
        messages, variables = answers.prepared([USER], {"tools": tools})
        assert variables["tools"] == (tools if kept else None), source
        assert example in messages[0]["content"]
