"""Checks of values from outside: integers, numbers and flags, and what messages say of them.

Python takes True for 1. Nothing that a user, a file or another node says is meant that way, so no
function here does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

from dllama.errors import ConfigError

MOST_FLOAT = sys.float_info.max
MOST_SHOWN = 100  # characters of a value in a message


def is_flag(value: object) -> TypeGuard[bool]:
    """Whether a value is True or False."""
    return isinstance(value, bool)


def is_integer(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Whether a value is an integer (of Python or NumPy) from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return least <= int(value) <= most


def is_number(
    value: object, least: float = -math.inf, most: float = math.inf, above: bool = False
) -> TypeGuard[float]:
    """Whether a value is a finite number from `least`, or above it, to `most`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    number = value if isinstance(value, int) else float(value)  # an int may be too large for one
    inside = max(least, -MOST_FLOAT) <= number <= min(most, MOST_FLOAT)
    return bool(inside and not (above and number == least))


def is_one_of(value: object, choices: Sequence[str]) -> TypeGuard[str]:
    """Whether a value is one of these words."""
    return isinstance(value, str) and value in choices


def range_text(least: float, most: float, above: bool = False) -> str:
    """A range in words: "1 to 8", "at least 0", "more than 0 and at most 1"; "" without bounds."""
    if -math.inf < least and most < math.inf and not above:
        return f"{_text(least)} to {_text(most)}"
    lower = f"more than {_text(least)}" if above else f"at least {_text(least)}"
    bounds = [lower] if least > -math.inf else []
    bounds += [f"at most {_text(most)}"] if most < math.inf else []
    return " and ".join(bounds)


def expected_text(noun: str, least: float, most: float, above: bool = False) -> str:
    """What a value must be: "an integer from 1 to 8", "a number of at least 0"."""
    bounds = range_text(least, most, above)
    if not bounds:
        return noun
    return f"{noun} {'of' if bounds.startswith(('at', 'more')) else 'from'} {bounds}"


def integer(name: str, value: object, least: float = -math.inf, most: float = math.inf) -> int:
    """An integer of Python or NumPy as int; ConfigError if it is none or out of range."""
    if not is_integer(value, least, most):
        expected = expected_text("an integer", least, most)
        raise ConfigError(f"{name} is {shown(value)}, expected {expected}")
    return int(value)


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """A value for a message, cut where it is long; not even a moment's work for a huge one."""
    text = _beginning(value, [most])
    return text if len(text) <= most else text[: most - 3] + "..."


def _beginning(value: object, left: list[int]) -> str:
    """What repr() gives, or a beginning of it that is too long for a message.

    Args:
        value: may contain itself, or the same list many times.
        left: how many characters there is room for; each call takes what it writes.
    """
    left[0] -= 2  # brackets, or what is between two values
    if left[0] < 0:
        return "..."
    if type(value) in (list, tuple, dict):
        return _container(value, left)
    if isinstance(value, (str, bytes)):
        text = repr(value[: left[0] + 3])
    elif isinstance(value, int) and value.bit_length() > 4 * MOST_SHOWN:
        text = f"an integer of {value.bit_length()} bits"
    else:
        text = repr(value)
    left[0] -= len(text)
    return text


def _container(value: Any, left: list[int]) -> str:
    parts = []
    for one in value:
        part = _beginning(one, left)
        parts.append(f"{part}: {_beginning(value[one], left)}" if type(value) is dict else part)
        if left[0] < 0 and len(parts) < len(value):
            parts.append("...")
            break
    text = ", ".join(parts)
    if isinstance(value, tuple):
        return f"({text},)" if len(value) == 1 else f"({text})"
    return f"[{text}]" if isinstance(value, list) else f"{{{text}}}"


# Control characters other than tab and newline could move the cursor of a terminal, or worse.
_HARMLESS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")


def harmless(text: str) -> str:
    """A text from outside for a terminal: U+FFFD in place of control characters."""
    return text.translate(_HARMLESS)


def one_line(text: str) -> str:
    """A text from outside for a line of a log: what is not printable, line ends too, is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _text(bound: float) -> str:
    """A bound; integers in all digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
