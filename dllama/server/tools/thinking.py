"""What models think before they answer, between two markers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from dllama.server.tools.base import AnswerParser, Event, Reasoning, Special, quoted

SPACES = r"/\s{0,4}/"  # after a thought; more would let a small model write nothing else


class Place(Enum):
    """Where an answer begins, which the end of the prompt says."""

    BEFORE = auto()  # the model may think first
    INSIDE = auto()  # the prompt has opened what the model thinks
    AFTER = auto()  # the prompt has closed it


@dataclass(frozen=True)
class Thinking:
    """The markers around what a model thinks.

    Attributes:
        open, close: the markers, each a special token or text.
        header: text that follows the first one.
    """

    open: str
    close: str
    header: str = ""

    @property
    def opening(self) -> str:
        """All that comes before what the model thinks."""
        return self.open + self.header

    def place(self, prompt: str) -> Place:
        """Return where the answer to a prompt begins."""
        end = prompt.rstrip()
        if end.endswith(self.opening):
            return Place.INSIDE
        return Place.AFTER if end.endswith(self.close) else Place.BEFORE

    def rules(self, special: Special) -> list[str]:
        """Return the rule "thought" of a grammar, from after the opening, and TEXT."""
        close, open = special(self.close), special(self.open)
        lazy = "[lazy]" if _is_text(close) else ""  # else no text has it
        lines = [f"inner{lazy}: ANY {close}", "ANY: /(.|\\n)*/", f"thought: inner {SPACES}"]
        text = "TEXT: /(.|\\n)*/"
        if _is_text(open):  # else it would be a text that has thoughts
            text += f" & ~/\\s*{re.escape(self.opening)}(.|\\n)*/"
        return [*lines, text]

    def begin(self, place: Place, special: Special) -> str:
        """Return what a grammar begins with."""
        header = quoted(self.header) if self.header else ""
        optional = f'("\\n"? {special(self.open)} {header} thought)?'
        return {Place.BEFORE: optional, Place.INSIDE: "thought", Place.AFTER: ""}[place]


ALL = (
    Thinking("<think>", "</think>"),
    Thinking("<|channel>", "<channel|>", "thought"),
    Thinking("[THINK]", "[/THINK]"),
)


def thinking(source: str) -> Thinking | None:
    """Return the markers that a chat template knows; None if it knows none."""
    return next((one for one in ALL if one.close in source), None)


class ThinkingParser(AnswerParser):
    """Finds what the model thinks first, and leaves the rest to another parser.

    Spaces at the borders of what it thinks are dropped, those after it too.

    Args:
        markers: around what the model thinks.
        place: where the answer begins.
        rest: parser of what comes afterwards.
    """

    def __init__(self, markers: Thinking, place: Place, rest: AnswerParser) -> None:
        super().__init__()
        self._markers = markers
        self._rest = rest
        self._spaces = ""  # before what comes next
        self._begun = False
        self._step = self._read if place is Place.INSIDE else self._first

    @property
    def thinking(self) -> bool:
        return self._step == self._read

    def step(self) -> bool:
        return self._step()

    def end(self) -> list[Event]:
        return super().end() + self._rest.end()

    def _first(self) -> bool:
        """Find out whether the model thinks."""
        opening, rest = self._markers.opening, self.held.lstrip()
        if not self.ended and len(rest) < len(opening) and opening.startswith(rest):
            return False
        self._step = self._pass_on
        if rest.startswith(opening):
            self.held = rest[len(opening) :]
            self._step = self._read
        return True

    def _read(self) -> bool:
        """Take what the model thinks."""
        text, marker = self.before((self._markers.close,))
        text = self._spaces + text
        kept = len(text.rstrip())
        shown = text[:kept] if self._begun else text[:kept].lstrip()
        self._begun |= bool(shown)
        self._spaces = text[kept:]
        self.give(Reasoning(shown))
        if marker:
            self._step = self._skip
        return marker is not None

    def _skip(self) -> bool:
        """Take the spaces after it."""
        self.held = self.held.lstrip()
        if self.held:
            self._step = self._pass_on
        return bool(self.held)

    def _pass_on(self) -> bool:
        """Leave text to the other parser."""
        for event in self._rest.push(self.take(len(self.held))):
            self.give(event)
        return False


def _is_text(spelling: str) -> bool:
    """Whether a grammar spells a marker as text, not as a special token."""
    return spelling.startswith('"')
