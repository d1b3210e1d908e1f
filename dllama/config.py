"""Options with their types and ranges, and the files that set them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dllama.errors import ConfigError, FormatError, InputError
from dllama.model.json_file import read_json_if_any

WORDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Option:
    """An option: its name with underscores, its type (str, int, float or bool) and help.

    Numbers lie from `least` to `most`; with `above`, `least` itself is left out. many: the
    option may be given several times, and its value is a list; several: its value is a list
    of words that follow each other; commas: a list of words with commas between; both: either
    way. test: raises ValueError for a value (of a list: an item) that it does not take.
    """

    name: str
    type: type
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    many: bool = False
    several: bool = False
    commas: bool = False
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
        """What a value must be, for messages."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        lower = f"more than {self.least:g}" if self.above else f"at least {self.least:g}"
        bounds = [lower] if self.least > -math.inf else []
        bounds += [f"at most {self.most:g}"] if self.most < math.inf else []
        return " ".join([WORDS[self.type], *(["of", " and ".join(bounds)] if bounds else [])])

    def parse(self, text: str) -> Any:
        """The value that a word of the command line stands for; ValueError if it is none."""
        if self.commas:
            return [replace(self, commas=False).parse(part) for part in text.split(",")]
        try:
            value = self.type(text)
        except ValueError:
            raise ValueError(f"found {text!r}, expected {self.expected}") from None
        return self.check(value)

    def check(self, value: Any) -> Any:
        """The value in the option's type; ValueError if it is of another or out of range."""
        if self.type is float and type(value) is int:
            value = float(value)
        if type(value) is not self.type or not self._holds(value):
            raise ValueError(f"found {value!r}, expected {self.expected}")
        self.test(value)
        return value

    def _holds(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.type not in (int, float):
            return True
        inside = self.least <= value <= self.most and math.isfinite(value)
        return inside and not (self.above and value == self.least)


def read_config(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """The options that a YAML file sets, by name; ConfigError names file, line and key,
    InputError a file that cannot be read.

    Keys are the options' names with - or _ between words. `nodes` may be a list instead of a
    number: one mapping per node with address, threads and share, the root first and without an
    address; it sets workers, threads and shares.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: not YAML: {error}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"config {path}: found no keys, expected lines of the form key: value")
    known = {option.name: option for option in options}
    values: dict[str, Any] = {}
    for key, node in root.value:
        where = f"config {path}, line {key.start_mark.line + 1}: {key.value}"
        name = str(key.value).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{where}: no such option, expected one of {_names(options)}")
        found = {name: node}
        if name == "nodes" and isinstance(node, yaml.SequenceNode):
            found = _nodes(node, path, known["workers"])
        for one, value in found.items():
            if one in values:
                raise ConfigError(f"{where}: {one} is given twice")
            is_node = isinstance(value, yaml.Node)
            values[one] = _value(known[one], value, where) if is_node else value
    return values


NODE_OPTIONS = (
    Option("address", str, "where a worker listens"),
    Option("threads", int, "for computing", least=1, most=1024),
    Option("share", float, "how much of the model it holds", least=0, above=True),
)


def _nodes(node: yaml.SequenceNode, path: Path, worker: Option) -> dict[str, Any]:
    """workers, threads and shares of a list of nodes."""
    options = {option.name: option for option in NODE_OPTIONS}
    options["address"] = replace(options["address"], test=worker.test)
    entries = [_node(entry, path, options) for entry in node.value]
    where = f"config {path}, line {node.start_mark.line + 1}: nodes"
    if len(entries) < 2 or "address" in entries[0]:
        raise ConfigError(f"{where}: expected the root, without an address, and then workers")
    if not all("address" in entry for entry in entries[1:]):
        raise ConfigError(f"{where}: expected an address for every node but the first")
    found: dict[str, Any] = {"workers": [entry["address"] for entry in entries[1:]]}
    if any("threads" in entry for entry in entries):
        found["threads"] = [entry.get("threads") for entry in entries]
    if any("share" in entry for entry in entries):
        found["shares"] = [entry.get("share", 1.0) for entry in entries]
    return found


def _node(entry: yaml.Node, path: Path, known: Mapping[str, Option]) -> dict[str, Any]:
    """One node of the list."""
    line = f"config {path}, line {entry.start_mark.line + 1}"
    if not isinstance(entry, yaml.MappingNode):
        raise ConfigError(f"{line}: expected a node with {_names(NODE_OPTIONS)}")
    values: dict[str, Any] = {}
    for key, node in entry.value:
        name = str(key.value)
        where = f"config {path}, line {key.start_mark.line + 1}: {name}"
        if name not in known or name in values:
            raise ConfigError(f"{where}: expected each of {_names(NODE_OPTIONS)} once at most")
        values[name] = _value(known[name], node, where)
    return values


def _value(option: Option, node: yaml.Node, where: str) -> Any:
    """The value of a key, if the option can take it."""
    try:
        loader = yaml.SafeLoader("")
        value = loader.construct_object(node, deep=True)
        if not option.is_list:
            return option.check(value)
        return [option.check(item) for item in (value if isinstance(value, list) else [value])]
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _names(options: Sequence[Option]) -> str:
    return ", ".join(sorted(option.name for option in options))


def generation_defaults(folder: Path, options: Sequence[Option]) -> dict[str, Any]:
    """What generation_config.json in a model folder says of the options; {} without the file.

    As in transformers, it counts only where do_sample is true, and null says nothing.
    FormatError names file and key, ModelError a file that cannot be read.
    """
    path = folder / "generation_config.json"
    config = read_json_if_any(path)
    if config.get("do_sample") is not True:
        return {}
    given = [option for option in options if config.get(option.name) is not None]
    return {option.name: _stored(option, config[option.name], path) for option in given}


def _stored(option: Option, value: object, path: Path) -> Any:
    """The value of a key of a JSON file, if the option can take it."""
    try:
        return option.check(value)
    except ValueError:
        raise FormatError(path, option.name, repr(value), option.expected) from None
