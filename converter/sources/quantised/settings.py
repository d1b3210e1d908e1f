"""The fields of a quantization_config. Every one must be understood."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dllama.errors import UnsupportedError


class Settings:
    """Fields that are read one by one; those that are left at the end are refused.

    UnsupportedError names the file, the method and the field.

    Args:
        values: the fields.
        name: what has them, for messages.
        path: the config.json, for messages.
    """

    def __init__(self, values: dict[str, Any], name: str, path: object) -> None:
        self.name, self.path = name, path
        self._values = dict(values)

    def one_of(self, key: str, *supported: object, default: object = None) -> Any:
        """Return a field that must have one of these values, or the default if it is absent.

        Without a default it must be there.
        """
        value = self._values.pop(key, None)
        value = default if value is None else value
        if any(type(value) is type(other) and value == other for other in supported):
            return value
        raise self.refused(key, value, " or ".join(map(repr, supported)))

    def size(self, key: str) -> int:
        """Return a number from 1 up; -1 for as much as there is."""
        value = self._values.pop(key, None)
        if type(value) is not int or (value < 1 and value != -1):
            raise self.refused(key, value, "a number of columns, or -1")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of names."""
        value = self._values.pop(key, None) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.refused(key, value, "a list of names")
        return tuple(value)

    def inner(self, key: str) -> Settings:
        """Return the fields of an object within these; none if it is absent."""
        value = self._values.pop(key, None) or {}
        if not isinstance(value, dict):
            raise self.refused(key, value, "an object")
        return Settings(value, f"{self.name}: {key}", self.path)

    def any(self, key: str) -> Any:
        """Return a field, whatever it is; None if it is absent."""
        return self._values.pop(key, None)

    def keys(self) -> list[str]:
        """Return the names of the fields that are left."""
        return list(self._values)

    def refuse_others(self, harmless: Collection[str]) -> None:
        """Refuse the first field that is left and set.

        Args:
            harmless: fields that say nothing about how weights are stored.
        """
        for key, value in self._values.items():
            if value and key not in harmless:
                raise UnsupportedError(
                    f"{self.path}: {self.name}: {key} {shortened(value)} is not known, and may "
                    "change how weights are stored (delete the field if it does not)"
                )

    def refused(self, key: str, value: object, supported: str = "") -> UnsupportedError:
        """Return the error for a field."""
        found = "is missing" if value is None else f"{shortened(value)} is not supported"
        expected = f", only {supported}" if supported else ""
        return UnsupportedError(f"{self.path}: {self.name}: {key} {found}{expected}")


def shortened(value: object) -> str:
    """Return a value as it stands in a message, cut after a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
