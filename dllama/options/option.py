"""One option: what it is called, what it takes, and what holds where it is not given."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from inspect import cleandoc
from typing import Any, TypeVar

from dllama import checks
from dllama.checks import shown
from dllama.errors import ConfigError

NOUNS = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}
T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: with underscores between words.
        type: of the value, or of the items of a list: str, int, float or bool.
        help: what it means, without its range and its default.
        default: what holds where nothing is given; None: something else decides.
        otherwise: in words, what holds where nothing is given and `default` does not say it.
        metavar: what stands for the value in the help of the command line.
        choices: the words that it takes; None: no list of words.
        least, most: bounds of a number.
        above: the number is more than `least`, not equal to it.
        many: the command line may give it several times, and its value is a list.
        several: its value is a list, of words that follow each other.
        commas: its value is a list, with commas between the items.
        short: a one-letter flag such as -m, "" for none.
        python: what LLM() takes besides, for its documentation.
        word: a word that may stand in place of the value, "" for none.
        test: raises ValueError for a value (of a list: an item) that it does not take.
    """

    name: str
    type: type
    help: str
    default: Any = None
    otherwise: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    many: bool = False
    several: bool = False
    commas: bool = False
    short: str = ""
    python: str = ""
    word: str = ""
    test: Callable[[Any], object] = bool

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return self.many or self.several or self.commas

    @property
    def flag(self) -> str:
        """The option as the command line writes it."""
        return "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What a value (of a list: an item) must be, for messages."""
        if self.word:
            return f"{self.word} or {replace(self, word='').expected}"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return checks.expected_text(NOUNS[self.type], self.least, self.most, self.above)

    @property
    def default_text(self) -> str:
        """What holds where nothing is given, "" where there is nothing to say."""
        if self.otherwise or self.default is None or self.type is bool:
            return self.otherwise
        return f"{self.default:g}" if self.type is float else str(self.default)

    @property
    def description(self) -> str:
        """The help with range and default."""
        notes = [checks.range_text(self.least, self.most, self.above)]
        notes += [f"default: {self.default_text}"] if self.default_text else []
        text = "; ".join(note for note in notes if note)
        return f"{self.help} ({text})" if text else self.help

    def parse(self, text: str) -> Any:
        """The value that a word of the command line stands for; ValueError if it is none."""
        if self.word and text == self.word:
            return text
        if self.commas:
            return [replace(self, commas=False).parse(part) for part in text.split(",")]
        try:
            value = self.type(text)
        except ValueError:
            raise ValueError(f"found {shown(text)}, expected {self.expected}") from None
        return self.check(value)

    def check(self, value: object) -> Any:
        """A value (of a list: an item) in the option's type; ValueError if it does not fit."""
        if not self._holds(value):
            raise ValueError(f"found {shown(value)}, expected {self.expected}")
        checked = self.type(value)
        self.test(checked)
        return checked

    def take(self, value: object) -> Any:
        """The whole value, a list where the option is one; ValueError if it does not fit."""
        if self.word and value == self.word:
            return value
        if not self.is_list:
            return self.check(value)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"found {shown(value)}, expected a list")
        return [self.check(item) for item in value]

    def argument(self, value: object) -> Any:
        """An argument in the option's type, the default for None; ConfigError names the option."""
        return self.default if value is None else self.require(value)

    def require(self, value: object) -> Any:
        """As `argument`, but None is an error too."""
        if self.word and value == self.word:
            return value
        if not self._holds(value):
            raise ConfigError(f"{self.name} is {shown(value)}, expected {self.expected}")
        return self.type(value)

    def _holds(self, value: object) -> bool:
        """Whether a value (of a list: an item) has the type and lies in the range."""
        if self.choices:
            return checks.is_one_of(value, self.choices)
        if self.type is bool:
            return checks.is_flag(value)
        if self.type is int:
            return checks.is_integer(value, self.least, self.most)
        if self.type is float:
            return checks.is_number(value, self.least, self.most, self.above)
        return isinstance(value, str)


def checked(options: Iterable[Option], content: Mapping[str, object]) -> dict[str, Any]:
    """The values of all of these options, from a JSON object that must have them.

    ValueError names the first that is absent or does not fit.
    """
    values = {}
    for option in options:
        try:
            values[option.name] = option.take(content.get(option.name))
        except ValueError as error:
            raise ValueError(f"{option.name}: {error}") from None
    return values


def documented(options: Iterable[Option]) -> Callable[[T], T]:
    """A decorator that puts the list of options where a docstring has {arguments}."""

    def document(one: T) -> T:
        lines = "\n".join(_documentation(option) for option in options)
        if one.__doc__:  # there is none under python -OO
            one.__doc__ = cleandoc(one.__doc__).replace("{arguments}", lines)
        return one

    return document


def _documentation(option: Option) -> str:
    """An argument in a docstring: what it is, its choices, range and default."""
    choices = f", one of {', '.join(option.choices)}" if option.choices else ""
    text = replace(option, help=option.help + choices).description
    text += f" (default: {option.default})" if option.type is bool else ""
    text += f"; {option.python}" if option.python else ""
    indent = " " * 4
    return textwrap.fill(
        f"{option.name}: {text}", 92, initial_indent=indent, subsequent_indent=indent + "    "
    )
