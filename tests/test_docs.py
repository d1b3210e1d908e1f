"""The documentation: links lead somewhere, and every option of the command line is in it."""

from __future__ import annotations

import argparse
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from dllama.cli import parser as command_line

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "docs/deploy", "benchmarks", "dllama/demo")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page}: {target}#{anchor}"


def test_every_option_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    parser = command_line()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        assert f"## dllama {name}" in text
        for action in command._actions:
            for flag in action.option_strings:
                assert flag in ("-h", "--help") or f"`{flag}" in text or f"{flag} " in text, flag


def test_the_recording_is_a_picture_of_its_own():
    picture = ElementTree.fromstring((ROOT / "docs" / "recording.svg").read_text(encoding="utf-8"))
    assert {element.tag.rpartition("}")[2] for element in picture.iter()} == {
        "svg", "title", "desc", "style", "clipPath", "g", "rect", "circle", "text",
    }  # fmt: skip
    text = "".join(picture.itertext())
    assert "dllama run" in text
    assert "tokens/s" in text
    assert "url(http" not in text


def test_the_conversation_in_python_runs(capsys):
    text = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(code, {})
    first, second = (line.split(" ", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert first[0] == "0"
    assert int(second[0]) > 20
    assert first[1]
    assert second[1]
