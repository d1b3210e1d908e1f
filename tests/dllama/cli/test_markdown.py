"""Colours for Markdown: which, and that nothing else changes, wherever the pieces are cut."""

from __future__ import annotations

import random
import re

import pytest

from dllama.cli.markdown import Markdown

CODES = re.compile(r"\x1b\[[\d;]*m")
PARTS = ("*", "**", "`", "```", "~~~", "_", "#", " ", "\n", "a", "b1", "\\", "-", ">", "1.", "  ")


def coloured(text: str) -> str:
    markdown = Markdown()
    return markdown.push(text) + markdown.end()


def marked(text: str) -> str:
    """The text with its colours in brackets: [1:bold] [33:code]."""
    return re.sub(r"\x1b\[([\d;]+)m(.*?)\x1b\[0m", r"[\1:\2]", coloured(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **b c** d", "a [1:**b c**] d"),
        ("*a* _b_ __c__ ***d***", "[3:*a*] [3:_b_] [1:__c__] [1;3:***d***]"),
        ("**a *b* c**", "[1:**a ][1;3:*b*][1: c**]"),
        ("2 * 3 * 4, a_b_c, 2 ** 3", "2 * 3 * 4, a_b_c, 2 ** 3"),
        ("\\*a\\* \\`b\\`", "\\*a\\* \\`b\\`"),
        ("`a*b*` ``c`d``", "[33:`a*b*`] [33:``c`d``]"),
        ("# A `b`\nc", "[1;36:# A ][33:`b`]\nc"),
        ("#a\n####### b", "#a\n####### b"),
        ("- a\n  * b\n12. c\n3) d", "[36:- ]a\n[36:  * ]b\n[36:12. ]c\n[36:3) ]d"),
        ("-a\n*b*\n2024 c\n1.5", "-a\n[3:*b*]\n2024 c\n1.5"),
        ("> a *b*\nc", "[2:> a ][2;3:*b*]\nc"),
        ("```py\n# **a** `b`\n\n```\n**c**", "[33:```py]\n[33:# **a** `b`]\n\n[33:```]\n[1:**c**]"),
        ("~~~\n```\n~~~ \na", "[33:~~~]\n[33:```]\n[33:~~~ ]\na"),
        ("````\n```\n````\n*a*", "[33:````]\n[33:```]\n[33:````]\n[3:*a*]"),
        ("**a\nb `c\nd", "[1:**a]\nb [33:`c]\nd"),
        ("a **", "a **"),
        ("```", "```"),
        ("", ""),
    ],
)
def test_colours(text, expected):
    assert marked(text) == expected


def test_only_colours_are_added_and_the_pieces_do_not_matter():
    rng = random.Random(1)
    for _ in range(1000):
        text = "".join(rng.choice(PARTS) for _ in range(rng.randrange(30)))
        markdown, whole = Markdown(), coloured(text)
        assert "".join(map(markdown.push, text)) + markdown.end() == whole
        assert CODES.sub("", whole) == text
        assert [*CODES.findall(whole), "\x1b[0m"][-1] == "\x1b[0m"
        if codes := CODES.findall(whole):
            assert codes[-1] == "\x1b[0m"


def test_text_is_shown_as_it_comes():
    markdown = Markdown()
    pieces = ["One", " two", " **", "bold", "** and ", "`", "code"]
    shown = [CODES.sub("", markdown.push(piece)) for piece in pieces]
    assert shown == ["One", " two", " ", "**bold", "** and ", "", "`code"]
