"""The fields of a JSON object, taken one at a time and checked on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dllama.server.problems import ApiError, shown


class Fields:
    """A JSON object of a request; null is the same as a field that is absent.

    Every method raises ApiError 400 that names the field, what was found and what was expected.
    where: what messages put before a field's name.
    """

    def __init__(self, value: object, where: str = "") -> None:
        self._where = where
        if not isinstance(value, dict) and not where:
            message = f"the body is {shown(value)}, expected a JSON object"
            raise ApiError(400, message, code="invalid_value")
        if not isinstance(value, dict):
            raise wrong(where.rstrip("."), value, "a JSON object")
        self._left: dict[str, Any] = {k: v for k, v in value.items() if v is not None}

    def take(self, name: str) -> Any:
        """The value of a field as it is; None if absent."""
        return self._left.pop(name, None)

    def integer(self, name: str, least: int, most: int) -> int | None:
        """An integer in a range; 2.0 is one as well."""
        value = self.take(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        right = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        if value is not None and not right:
            raise wrong(self._where + name, value, f"an integer from {least} to {most}")
        return None if value is None else int(value)

    def number(self, name: str, least: float, most: float) -> float | None:
        """A finite number in a range."""
        value = self.take(name)
        if value is None:
            return None
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not least <= value <= most or not math.isfinite(value):
            raise wrong(self._where + name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def boolean(self, name: str) -> bool:
        """true or false; absent is false."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(self._where + name, value, "true or false")
        return bool(value)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            raise wrong(self._where + name, value, "a string")
        return value

    def only(self, name: str, allowed: Iterable[object], hint: str = "") -> None:
        """A field that this server knows in some values only, which change nothing."""
        value = self.take(name)
        if value is not None and not any(type(value) is type(a) and value == a for a in allowed):
            message = f"{self._where}{name} is {shown(value)}, which this server does not support"
            raise ApiError(400, message + hint, param=self._where + name, code="unsupported_value")

    def ignore(self, names: Iterable[str]) -> None:
        """Fields that are of no meaning to the text, whatever they say."""
        for name in names:
            self.take(name)

    def end(self) -> None:
        """All fields that are known were taken: the others are errors."""
        for name in self._left:
            word = ascii(self._where + name)[1:-1]
            message = f"unknown field {shown(self._where + name)}"
            raise ApiError(400, message, param=word, code="unknown_parameter")


def wrong(name: str, value: object, expected: str) -> ApiError:
    """The error of a field with a wrong value."""
    return ApiError(
        400, f"{name} is {shown(value)}, expected {expected}", param=name, code="invalid_value"
    )


def required(name: str) -> ApiError:
    """The error of a field that must not be absent."""
    return ApiError(400, f"{name} is missing", param=name, code="missing_required_parameter")
