"""Configuration files: the options of the command line as YAML, checked key by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dllama.errors import ConfigError


@dataclass(frozen=True)
class Option:
    """An option: its name with underscores, type (str, int, float or bool) and help."""

    name: str
    type: type
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None


def read_config(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """The options that a YAML file sets, by name; ConfigError names file, key and line.

    Keys are the options' names with - or _ between words.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: not YAML: {error}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"config {path}: expected keys and values")
    known = {option.name: option for option in options}
    values: dict[str, Any] = {}
    for key, node in root.value:
        where = f"config {path}, line {key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{where}: {key.value!r} is no option of this command")
        if name in values:
            raise ConfigError(f"{where}: {key.value!r} is given twice")
        values[name] = _value(known[name], node, f"{where}: {key.value}")
    return values


def _value(option: Option, node: yaml.Node, where: str) -> Any:
    """The value of a key, if it is of the option's type."""
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    if option.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not option.type:
        raise ConfigError(f"{where} is {value!r}, expected {_WORDS[option.type]}")
    if option.choices and value not in option.choices:
        raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(option.choices)}")
    return value


_WORDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}
