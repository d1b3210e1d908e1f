"""The fields of a JSON object, checked as they are taken."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeGuard

from dllama.checks import expected_text, is_flag, is_integer, is_number
from dllama.options.option import Option
from dllama.server.problems import ApiError, shown

MOST_NAME = 64  # characters


class Fields:
    """A JSON object of a request. A null field counts as absent.

    Every method raises ApiError 400 with the field's name, the value and what was expected.

    Args:
        value: the parsed JSON.
        where: prefix of field names in error messages.
    """

    def __init__(self, value: object, where: str = "") -> None:
        self._where = where
        if not isinstance(value, dict) and not where:
            message = f"the body is {shown(value)}, expected a JSON object"
            raise ApiError(400, message, code="invalid_value")
        if not isinstance(value, dict):
            raise wrong(where.rstrip("."), value, "a JSON object")
        self._left: dict[str, Any] = {k: v for k, v in value.items() if v is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Any:
        """Take a field without checking it; None if absent."""
        return self._left.pop(name, None)

    def given(self, name: str) -> Any:
        """Take a field that has to be there, without checking it."""
        value = self.take(name)
        if value is None:
            raise required(self._where + name)
        return value

    def integer(self, name: str, least: int, most: int) -> int | None:
        """Take an integer in a range; 2.0 counts as one."""
        value = self.take(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None:
            return None
        if not is_integer(value, least, most):
            raise wrong(self._where + name, value, expected_text("an integer", least, most))
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        """Take a finite number in a range."""
        value = self.take(name)
        if value is None:
            return None
        if not is_number(value, least, most):
            raise wrong(self._where + name, value, expected_text("a number", least, most))
        return float(value)

    def option(self, option: Option) -> Any:
        """Take a number as the option of the command line takes it; 2.0 counts as an integer."""
        value = self.take(option.name)
        if option.type is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        try:
            return None if value is None else option.check(value)
        except ValueError:
            raise wrong(self._where + option.name, value, option.expected) from None

    def boolean(self, name: str, default: bool = False) -> bool:
        """Take true or false."""
        value = self.take(name)
        if value is None:
            return default
        if not is_flag(value):
            raise wrong(self._where + name, value, "true or false")
        return value

    def text(self, name: str) -> str | None:
        """Take a string."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise wrong(self._where + name, value, "a string")
        return value

    def given_text(self, name: str) -> str:
        """Take a string that has to be there."""
        value = self.text(name)
        if value is None:
            raise required(self._where + name)
        return value

    def word(self, name: str, words: Collection[str], default: str | None = None) -> str:
        """Take one of some strings; without a default, it has to be there."""
        value = self.text(name)
        value = default if value is None else value
        if value is None or value not in words:
            raise wrong(self._where + name, value, f"one of {', '.join(words)}")
        return value

    def kind(self, supported: Collection[str], default: str | None = None, hint: str = "") -> str:
        """Take the field `type`; without a default, it has to be there.

        Other types than those supported may be known to clients, so the error says that they are
        not supported.
        """
        value = self.text("type")
        value = default if value is None else value
        if value is None or value not in supported:
            name = f"{self._where}type"
            only = ", ".join(map(repr, supported))
            message = f"{name} is {shown(value)}, this server supports only {only}{hint}"
            raise ApiError(400, message, param=name, code="unsupported_value")
        return value

    def nested(self, name: str) -> Fields:
        """Take a JSON object; an absent field is an empty one."""
        value = self.take(name)
        return Fields({} if value is None else value, f"{self._where}{name}.")

    def items(self, name: str, expected: str) -> list[Any]:
        """Take a list; an absent field is an empty one."""
        value = self.take(name)
        if value is not None and not isinstance(value, list):
            raise wrong(self._where + name, value, expected)
        return value or []

    def only(self, name: str, allowed: Iterable[object], hint: str = "") -> None:
        """Accept a field only with values that change nothing."""
        value = self.take(name)
        if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
            message = f"{self._where}{name} is {shown(value)}, which this server does not support"
            raise ApiError(400, message + hint, param=self._where + name, code="unsupported_value")

    def ignore(self, names: Iterable[str]) -> None:
        """Drop fields that do not affect the text, whatever their values."""
        for name in names:
            self.take(name)

    def end(self) -> None:
        """Raise an error if any fields are left."""
        for name in self._left:
            param = self._where + short(name)
            message = f"unknown field {shown(self._where + name)}"
            raise ApiError(400, message, param=param, code="unknown_parameter")


def short(name: str) -> str:
    """Return the name of a field that a client has made up, in ASCII and not too long."""
    return ascii(name if len(name) <= MOST_NAME else f"{name[:MOST_NAME]}...")[1:-1]


def is_ids(value: object) -> TypeGuard[list[int]]:
    """Whether a value from JSON is a list of integers, as token ids are."""
    return isinstance(value, list) and set(map(type, value)) <= {int}


def wrong(name: str, value: object, expected: str) -> ApiError:
    """Create the error for a field with a wrong value."""
    return ApiError(
        400, f"{name} is {shown(value)}, expected {expected}", param=name, code="invalid_value"
    )


def required(name: str) -> ApiError:
    """Create the error for a missing field."""
    return ApiError(400, f"{name} is missing", param=name, code="missing_required_parameter")
