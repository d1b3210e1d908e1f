"""What models think before they answer: where it ends, and what comes with it."""

from __future__ import annotations

import pytest
from calls import FUNCTIONS, calls, found

from dllama.server.tools.answer import Answer, Tally
from dllama.server.tools.base import Content, Reasoning, TextParser
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.thinking import Place, Thinking, ThinkingParser, thinking

QWEN = Thinking("<think>", "</think>")
GEMMA = Thinking("<|channel>", "<channel|>", "thought")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
BEFORE, INSIDE, AFTER = Place.BEFORE, Place.INSIDE, Place.AFTER
CASES = [
    (BEFORE, "<think>\nA < b,\n\nso c.\n</think>\n\nYes.\n",
     [("reasoning", "A < b,\n\nso c."), ("content", "Yes.\n")]),
    (BEFORE, "\n<think>\n\n</think>\n\nYes", [("content", "Yes")]),
    (BEFORE, "\n\nYes, <think>.", [("content", "\n\nYes, <think>.")]),
    (BEFORE, "<thin", [("content", "<thin")]),
    (BEFORE, "", []),
    (INSIDE, "\nHm. <think> </thin k>", [("reasoning", "Hm. <think> </thin k>")]),
    (INSIDE, "Hm. </thi", [("reasoning", "Hm. </thi")]),
    (INSIDE, f"Hm.</think>Well.\n{CALL}",
     [("reasoning", "Hm."), ("content", "Well."), *calls(("add", '{"a": 1}'))]),
    (BEFORE, f"<think>{CALL}</think>{CALL}", [("reasoning", CALL), *calls(("add", '{"a": 1}'))]),
    (AFTER, "Yes.", [("content", "Yes.")]),
    (AFTER, "<think>Hm.</think> Yes.", [("reasoning", "Hm."), ("content", "Yes.")]),
]  # fmt: skip


@pytest.mark.parametrize(("place", "text", "expected"), CASES, ids=str)
def test_text_in_one_piece_in_two_and_in_characters(place, text, expected):
    def parser():
        return ThinkingParser(QWEN, place, Hermes().parser(FUNCTIONS))

    assert found(parser(), [text]) == expected
    assert found(parser(), text) == expected
    for cut in range(1, len(text)):
        assert found(parser(), [text[:cut], text[cut:]]) == expected


def test_thoughts_come_while_they_are_written():
    parser = ThinkingParser(GEMMA, BEFORE, TextParser())
    assert parser.push("<|channel>thought\nHm") == [Reasoning("Hm")]
    assert parser.push(", ") == [Reasoning(",")]
    assert parser.push("or") == [Reasoning(" or")]
    assert parser.push("<channel|>Yes") == [Content("Yes")]
    assert parser.push(" ") == [Content(" ")]


@pytest.mark.parametrize(
    ("markers", "prompt", "place"),
    [
        (QWEN, "<|im_start|>assistant\n", BEFORE),
        (QWEN, "What is <think>?<|im_end|>\n<|im_start|>assistant\n", BEFORE),
        (QWEN, "<|Assistant|><think>\n", INSIDE),
        (QWEN, "assistant\n<think>\n\n</think>\n\n", AFTER),
        (QWEN, "<|Assistant|></think>", AFTER),
        (GEMMA, "<|turn>model\n", BEFORE),
        (GEMMA, "<|turn>model\n<|channel>thought\n<channel|>", AFTER),
    ],
)
def test_the_prompt_says_where_the_answer_begins(markers, prompt, place):
    assert markers.place(prompt) is place


def test_markers_are_known_by_their_templates():
    assert thinking("{% if '</think>' in content %}") == QWEN
    assert thinking("text.split('<channel|>')") == GEMMA
    assert thinking("[THINK] [/THINK]") == Thinking("[THINK]", "[/THINK]")
    assert thinking("<|im_start|>") is None


def test_tokens_of_thoughts_are_counted():
    """The markers belong to the thought. All answers to a request count together."""
    tally = Tally()
    for texts in (["<think>", "\n", "Hm", ".", "</think>", "\n\n", "Yes", "."], ["No"], [""]):
        Answer(ThinkingParser(QWEN, BEFORE, TextParser()), tally=tally).whole(texts)
    assert tally.reasoning == 5
    Answer(ThinkingParser(QWEN, INSIDE, TextParser()), tally=tally).whole(["Hm", "", "</think>"])
    assert tally.reasoning == 8
    answer = Answer(Harmony().parser([]))
    answer.whole(["<|channel|>", "analysis", "<|message|>", "Hm", "<|end|>", "<|start|>"])
    assert answer.tally.reasoning == 3


def test_the_message_has_the_thought():
    made = Answer(ThinkingParser(QWEN, INSIDE, TextParser())).whole(["Hm.\n", "</think>", "Yes."])
    assert made == {"content": "Yes.", "reasoning_content": "Hm."}
    cut = Answer(ThinkingParser(QWEN, INSIDE, TextParser())).whole(["Hm.\n"])
    assert cut == {"content": "", "reasoning_content": "Hm."}
