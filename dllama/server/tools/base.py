"""What the formats of calls have in common: events, parsers of streamed text, grammars."""

from __future__ import annotations

import json
import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dllama.sampling.grammar import WHITESPACE

NOTES = ("$comment", "description", "title")  # keywords of a schema
VALUES = ("const", "enum")
Special = Callable[[str], str]  # a marker of a template -> what stands for it in a Lark grammar


@dataclass(frozen=True)
class Content:
    """A piece of the text for the user."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Begin:
    """A call of a function begins. Its arguments follow."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of the call that began last: JSON."""

    text: str


Event = Content | Reasoning | Begin | Arguments


@dataclass(frozen=True)
class Function:
    """A function that a model may call.

    Attributes:
        name: letters, digits, "_", "-" and ".".
        schema: JSON schema of its arguments, an object.
        lenient: leave out what the schema says and a grammar cannot, instead of refusing it.
    """

    name: str
    schema: dict[str, Any]
    lenient: bool = True


class AnswerParser(ABC):
    """Understands a text that comes in pieces. How it is cut changes no event's joined text."""

    def __init__(self) -> None:
        self.held = ""  # text that is not yet understood
        self.ended = False
        self._out: list[Event] = []

    @property
    def thinking(self) -> bool:
        """Whether what comes next belongs to what the model thinks."""
        return False

    def push(self, text: str) -> list[Event]:
        """Add a piece of the text and return what is certain by now."""
        self.held += text
        return self._run()

    def end(self) -> list[Event]:
        """Return the rest. Push nothing afterwards."""
        self.ended = True
        return self._run()

    @abstractmethod
    def step(self) -> bool:
        """Take something from `held`; False if that needs more text, or nothing is left."""

    def give(self, event: Event) -> None:
        """Add an event, unless it is an empty piece."""
        if isinstance(event, Begin) or event.text:
            self._out.append(event)

    def take(self, count: int) -> str:
        """Take so many characters from `held`."""
        text, self.held = self.held[:count], self.held[count:]
        return text

    def before(self, markers: Sequence[str]) -> tuple[str, str | None]:
        """Take the text before the first of some markers, and that marker.

        Returns:
            The text, and the marker or None. Without one, the end of the text stays in `held` if
            it may be the beginning of one.
        """
        found = [(at, marker) for marker in markers if (at := self.held.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            text = self.take(at)
            self.take(len(marker))
            return text, marker
        keep = 0 if self.ended else max(_overlap(self.held, marker) for marker in markers)
        return self.take(len(self.held) - keep), None

    def may_begin(self, marker: str) -> bool:
        """Whether `held` is only the beginning of a marker, and more text may come."""
        return not self.ended and len(self.held) < len(marker) and marker.startswith(self.held)

    def _run(self) -> list[Event]:
        while self.step():
            pass
        out, self._out = self._out, []
        return out


class TextParser(AnswerParser):
    """Takes all that comes as text for the user."""

    def step(self) -> bool:
        self.give(Content(self.take(len(self.held))))
        return False


class CallParser(AnswerParser):
    """Finds calls. Its state is the method that takes what comes next.

    Args:
        functions: those that may be called.
    """

    def __init__(self, functions: Sequence[Function]) -> None:
        super().__init__()
        self.functions = {function.name: function for function in functions}
        self._step = self.first

    def step(self) -> bool:
        return self._step()

    @abstractmethod
    def first(self) -> bool:
        """Take the beginning of an answer; as `step`."""


class ToolFormat(ABC):
    """How a family of models writes calls.

    Attributes:
        markers: what the parser looks for. Special tokens among them are part of the text.
        ends: special tokens that end an answer with calls.
        closing: markers that stand only at the end of a call. If one is a token, special or not, a
            grammar asks for that token: what comes after it was learnt with it, not with text.
        always: whether answers have this format without functions too.
    """

    markers: tuple[str, ...]
    ends: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    always = False

    @abstractmethod
    def recognises(self, source: str) -> bool:
        """Whether a chat template has this format."""

    @abstractmethod
    def parser(self, functions: Sequence[Function]) -> CallParser:
        """Return the parser of an answer in which these functions may be called."""

    @abstractmethod
    def rules(
        self, functions: Sequence[Function], several: bool, special: Special, source: str
    ) -> str:
        """Return rules of a grammar, in Lark's notation as llguidance has it.

        The rule "calls" is an answer that calls functions, "mixed" any answer, in which only calls
        have to be right. They may use the terminal TEXT, which is any text.

        Args:
            functions: those that may be called.
            several: whether there may be more calls than one.
            special: gives the spelling of a marker.
            source: the chat template.
        """

    def thinks(self, special: Special) -> str:
        """Return what a grammar allows before all else: what the model thinks, if it does."""
        return ""

    def says(self, special: Special) -> str:
        """Return how a grammar has an answer without calls, whose text is the grammar @text."""
        return "@text"

    def history(self, messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
        """Return messages as a chat template of this format wants them."""
        return messages

    def example(self, source: str) -> str:
        """Return a call of NAME, for chat templates that do not show functions.

        It is empty if all templates of this format show them.
        """
        return ""

    def call_id(self) -> str:
        """Return the id of a new call."""
        return f"call_{secrets.token_hex(12)}"


def short_id() -> str:
    """Return an id of nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def quoted(text: str) -> str:
    """Return a text as a string of JSON, which is also how a grammar has it."""
    return json.dumps(text, ensure_ascii=False)


def json_rule(name: str, schema: dict[str, Any], lenient: bool) -> str:
    """Return a rule that is JSON."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": lenient}
    return f"{name}: %json {json.dumps({**_without_notes(schema), 'x-guidance': options})}"


def _without_notes(schema: Any) -> Any:
    """Return a schema without texts for readers, which can be most of it."""
    if isinstance(schema, list):
        return [_without_notes(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in VALUES else _without_notes(value)
        for key, value in schema.items()
        if key not in NOTES or not isinstance(value, str)  # else it is the name of a property
    }


def call_rules(functions: Sequence[Function], call: Callable[[Function, str], str]) -> list[str]:
    """Return rules of which "call" is one call of any of some functions.

    Args:
        functions: those that may be called.
        call: gives a call of a function, from the function and the name of the rule of its
            arguments as JSON.
    """
    lines = ["call: " + " | ".join(f"call{at}" for at in range(len(functions)))]
    for at, function in enumerate(functions):
        lines.append(f"call{at}: {call(function, f'arguments{at}')}")
        lines.append(json_rule(f"arguments{at}", function.schema, function.lenient))
    return lines


def object_call(function: Function, arguments: str, key: str = "arguments") -> str:
    """Return a call that is a JSON object, for `call_rules`; key: of the arguments."""
    head = quoted(f'{{"name": "{function.name}", "{key}": ')
    return f'{head} {arguments} "}}"'


def marked(
    marker: str, section: str, several: bool, between: str = "", begins: str = "TEXT", *others: str
) -> list[str]:
    """Return the rules "calls" and "mixed" of a format whose calls come after a marker.

    Args:
        marker: its spelling.
        section: what comes after it.
        several: whether there may be more markers than one.
        between: what is between two sections.
        begins: the terminal with which answers begin.
        others: what else an answer may be.
    """
    lazy = "" if marker.startswith("<[") else "[lazy]"  # a text never has special tokens
    # A model may write what is between two sections before it knows that it has ended.
    ending = f"({between})?" if between else ""
    more = f"({between} {marker} {section})* {ending}" if several else ""
    later = f"(upto {section})* TEXT" if several else ""
    return [
        f"calls: {marker} {section} {more}",
        f"mixed: {' | '.join([begins, f'first {section} {later}', *others])}",
        f"first{lazy}: {begins} {marker}",
        f"upto{lazy}: TEXT {marker}",
    ]


def _overlap(text: str, marker: str) -> int:
    """Return how many characters at the end of a text may begin a marker."""
    lengths = range(min(len(text), len(marker) - 1), 0, -1)
    return next((length for length in lengths if marker.startswith(text[-length:])), 0)
