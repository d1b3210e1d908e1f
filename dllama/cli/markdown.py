"""Colours for Markdown that comes in pieces.

The text itself stays as it is: only the codes that terminals take for colours are added. So nothing
is reordered, and all that is held back is a marker, until the character after it tells what it is.
It knows what models write: headings, lists, quotes, blocks and spans of code, bold and italic text.
"""

from __future__ import annotations

import re

HEADING, MARKER, QUOTE, CODE, BOLD, ITALIC = "1;36", "36", "2", "33", "1", "3"
RESET = "\x1b[0m"
# What a line may begin with, and what its first characters may become.
MAYBE_MARKER = re.compile(r" *(#{1,6}|[-*+]|\d{1,3}[.)]?|`+|~+)?")
IS_HEADING = re.compile(r" {0,3}#{1,6} ")
IS_ITEM = re.compile(r" *([-*+]|\d{1,3}[.)]) ")
IS_QUOTE = re.compile(r" {0,3}>")
IS_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[^`~]")
MAYBE_FENCE = re.compile(r" {0,3}(`*|~*) *")
RUNS = "`*_"


class Markdown:
    """Adds colours to one text."""

    def __init__(self) -> None:
        self._held = ""  # a marker that the next character decides
        self._begins = True  # whether `_held` is all of this line
        self._fence = ""  # what opened the block of code
        self._span = ""  # what opened the span of code
        self._line = ""  # colour of the line
        self._bold = self._italic = False
        self._last = "\n"  # the character that was shown last
        self._shown = ""  # the colours that the terminal has now

    def push(self, text: str) -> str:
        """Return what to show of a piece."""
        return "".join(map(self._next, text))

    def end(self) -> str:
        """Return the rest of the text, after which the terminal has no colours."""
        held, self._held = self._held, ""
        text = self._show(held)
        return text + (RESET if self._shown else "")

    def _next(self, char: str) -> str:
        """Take a character, and return what is certain by now."""
        if self._begins:
            return self._beginning(self._held + char)
        if not self._held:
            return self._inside(char)
        if char == self._held[0] and char in RUNS:
            self._held += char
            return ""
        held, self._held = self._held, ""
        if held == "\\":
            return self._show(held) + (self._newline() if char == "\n" else self._show(char))
        return self._run(held, char) + self._inside(char)

    def _beginning(self, text: str) -> str:
        """Take all of a line so far."""
        maybe = MAYBE_FENCE if self._fence else MAYBE_MARKER
        if maybe.fullmatch(text):
            self._held = text
            return ""
        self._held, self._begins = "", False
        if self._fence:
            return self._in_block(text)
        if fence := IS_FENCE.match(text):
            self._fence, self._line = fence[1], CODE
        elif IS_HEADING.match(text):
            self._line = HEADING
        elif IS_QUOTE.match(text):
            self._line = QUOTE
        elif IS_ITEM.match(text):
            return self._show(text, MARKER)
        if self._line and text[-1] != "\n":
            return self._show(text)
        return "".join(map(self._next, text))

    def _in_block(self, text: str) -> str:
        """Take the beginning of a line in a block of code, which may end the block."""
        closing = text.strip(" ").removesuffix("\n")
        ends = text[-1] == "\n" and closing[:1] == self._fence[0] and closing >= self._fence
        self._line = CODE
        shown = self._show(text[:-1]) + self._inside(text[-1])
        self._fence = "" if ends else self._fence
        return shown

    def _inside(self, char: str) -> str:
        """Take a character after the beginning of a line."""
        if char == "\n":
            return self._newline()
        if not self._fence and (char in RUNS or (char == "\\" and not self._span)):
            self._held = char
            return ""
        return self._show(char)

    def _newline(self) -> str:
        """End a line, and all that is open there but a block of code."""
        self._line = self._span = ""
        self._bold = self._italic = False
        self._begins = True
        return self._show("\n")

    def _run(self, run: str, after: str) -> str:
        """Show equal characters that may begin or end something."""
        if run[0] == "`":
            return self._backticks(run)
        if self._span or len(run) > 3:
            return self._show(run)
        opens = not after.isspace() and (run[0] == "*" or not self._last.isalnum())
        closes = not self._last.isspace() and (run[0] == "*" or not after.isalnum())
        bold, italic = self._bold, self._italic
        if len(run) > 1 and (closes if bold else opens):
            bold = not bold
        if len(run) != 2 and (closes if italic else opens):
            italic = not italic
        self._bold, self._italic = bold or self._bold, italic or self._italic
        text = self._show(run)  # the marker looks like what is inside
        self._bold, self._italic = bold, italic
        return text

    def _backticks(self, run: str) -> str:
        """Show backticks: as many as opened a span of code end it."""
        if self._span:
            text = self._show(run)
            self._span = "" if run == self._span else self._span
            return text
        self._span = run
        return self._show(run)

    def _show(self, text: str, colour: str | None = None) -> str:
        """Return a text in a colour, by default that of where it is."""
        if not text:
            return ""
        self._last = text[-1]
        wanted = self._colour() if colour is None else colour
        if wanted == self._shown:
            return text
        before, self._shown = self._shown, wanted
        return (RESET if before else "") + (f"\x1b[{wanted}m" if wanted else "") + text

    def _colour(self) -> str:
        if self._span:
            return CODE
        parts = (self._line, BOLD if self._bold else "", ITALIC if self._italic else "")
        return ";".join(filter(None, parts))
