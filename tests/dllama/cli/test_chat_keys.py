"""`dllama chat` in a terminal: colours, Tab, what is typed while an answer comes, and what no
terminal should get."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from terminal import Terminal

from dllama.cli.console import Console
from dllama.cli.run import _show

# A model that says the same again and again, in Markdown and slowly.
CODE = """\
import sys, time
from dllama.conversation import Conversation
from dllama.text.stream import Token
def say(self, text):
    self.turns += [text]
    for piece in ("Say ", "**", text, "** ", "now", "."):
        time.sleep(0.1)
        yield Token(1, piece)
Conversation.say = say
from dllama.cli import main; sys.exit(main(["chat", "--threads", "1"]))
"""
readline = pytest.mark.skipif(
    importlib.util.find_spec("readline") is None, reason="Python without readline"
)


@readline
def test_keys_and_colours():
    with Terminal(CODE) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("one\n")
        terminal.wait_for("Say ")
        terminal.type("two\nthrx")
        terminal.type("\x7fee")
        assert "two" not in terminal.wait_for(r"\(6 tokens\)\n> ")
        terminal.wait_for(r"two\nSay \*\*two\*\* now\.\n\(6 tokens\)\n> ")
        terminal.type("\n")
        terminal.wait_for(r"thrx\x08ee\nSay \*\*three\*\* now\.\n\(6 tokens\)\n> ")
        terminal.type("/sta\t\n")
        terminal.wait_for(r"/stats\ncontext .*\n(.*\n)*> ")
        terminal.type("/\t\t")
        terminal.wait_for(r"/exit .*/system *\n> /")
        terminal.type("\x15/exit\n")
        assert terminal.status() == 0
    assert b"Say \x1b[1m**two**\x1b[0m now." in terminal.raw


@pytest.mark.parametrize(
    ("terminal", "environment", "expected"),
    [
        (True, {}, "\x1b[1m**a**\x1b[0m\n"),
        (True, {"NO_COLOR": "1"}, "**a**\n"),
        (True, {"NO_COLOR": ""}, "\x1b[1m**a**\x1b[0m\n"),
        (True, {"TERM": "dumb"}, "**a**\n"),
        (False, {}, "**a**\n"),
    ],
)
def test_where_there_are_colours(terminal, environment, expected, monkeypatch, capsys):
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    console = Console()
    for piece in ("**", "a*", "*"):
        console.show(piece)
    console.end_line()
    console.end_line()
    assert capsys.readouterr().out == expected


def test_control_characters_do_not_reach_a_terminal(monkeypatch, capsys):
    console = Console()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text, harmless = "a\x1b[2J\x9b\x07\tb\n\u00e9", "a\ufffd[2J\ufffd\ufffd\tb\n\u00e9"
    console.show(text)
    assert capsys.readouterr().out == harmless
    _show(text)
    assert capsys.readouterr().out == harmless
    console.note(text)
    assert capsys.readouterr() == ("\n", f"{harmless}\n")
