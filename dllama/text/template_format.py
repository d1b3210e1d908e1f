"""Formatting of text in templates, with % and with str.format, and bounds on what that makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter

MAX_WIDTH = 64
# Conversions of printf-style formatting, with their width and precision.
CONVERSION = re.compile(
    r"%(?:\([^()]*\))?[#0\- +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?[hlL]?(?P<kind>.)?",
    re.DOTALL,
)
# Told the length of a text before or while it is made; raises an error if it is too long.
Grown = Callable[[int], None]


def percent(text: str, values: Any, grown: Grown) -> str:
    """Return text % values.

    Raises:
        TemplateRuntimeError: a width is too large, or is a value.
        TypeError, ValueError, KeyError: whatever Python raises.
    """
    length = len(text)
    longest = max(len(repr(value)) for value in [*_parts(values), values])
    for match in CONVERSION.finditer(text):
        if match["kind"] == "(":
            raise TemplateRuntimeError("formats a name with parentheses")
        for width in (match["width"], match["precision"]):
            if width == "*" or (width and int(width) > MAX_WIDTH):
                raise TemplateRuntimeError(f"formats to a width of more than {MAX_WIDTH}")
        length += longest + MAX_WIDTH
        grown(length)
    formatted: str = text % values
    return formatted


def _parts(values: Any) -> list[Any]:
    if isinstance(values, Mapping):
        return list(values.values())
    return list(values) if isinstance(values, tuple) else []


class BoundedFormatter(SandboxedFormatter):
    """Does what str.format does. Attributes are those that the sandbox allows.

    Args:
        environment: the sandbox.
        grown: told the length of the text whenever it grows.
    """

    def __init__(self, environment: SandboxedEnvironment, grown: Grown) -> None:
        super().__init__(environment)
        self._grown = grown
        self._length = 0

    def vformat(self, format_string: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the formatted text."""
        self._length = len(format_string)
        return super().vformat(format_string, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return the text of a value, and count its length."""
        if any(int(number) > MAX_WIDTH for number in re.findall(r"\d+", format_spec)):
            raise TemplateRuntimeError(f"formats to a width of more than {MAX_WIDTH}")
        text: str = super().format_field(value, format_spec)
        self._length += len(text)
        self._grown(self._length)
        return text
