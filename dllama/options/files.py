"""Files that set options: YAML, and generation_config.json of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dllama.checks import shown
from dllama.errors import ConfigError, FormatError, InputError
from dllama.json_file import read_json_if_any
from dllama.options import GIVEN_SHARES, LAST, MEAN, THREADS
from dllama.options.option import Option

MAX_DEPTH = 16


# How sentence-transformers says that texts are embedded: flags, later one word.
POOLING_FILE = "1_Pooling/config.json"
FLAG = "pooling_mode_"
POOLING_MODES = {"mean_tokens": MEAN, "mean": MEAN, "lasttoken": LAST}


def read_config(path: Path, options: Sequence[Option]) -> dict[str, Any]:
    """The options that a YAML file sets, by name.

    Keys are the options' names with - or _ between words. `nodes` may be a list instead of a
    number, with a mapping for each node: its address (not for the root, which comes first),
    threads and share. The list sets workers, threads and shares.

    Args:
        path: of the file.
        options: those that it may set.

    Raises:
        ConfigError: the file is wrong; the message names file, line and key.
        InputError: it cannot be read.
    """
    known = {option.name: option for option in options}
    values: dict[str, Any] = {}
    for key, node in entries(path):
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
            values[one] = value_of(known[one], value, where) if is_node else value
    return values


class _Loader(yaml.SafeLoader):
    """Refuses what is nested deeper than any option, before time and stack are used up."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def entries(path: Path, what: str = "config") -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a YAML file; messages say what it is."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path}: not YAML: {error}") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{what} {path}: found no keys, expected lines of the form key: value")
    return list(root.value)


NODE_OPTIONS = (
    Option("address", str, "where a worker listens"),
    THREADS,
    replace(GIVEN_SHARES, name="share", commas=False),
)


def _nodes(node: yaml.SequenceNode, path: Path, worker: Option) -> dict[str, Any]:
    """The workers, threads and shares of a list of nodes."""
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
    """The address, threads and share of one node, as far as they are given."""
    line = f"config {path}, line {entry.start_mark.line + 1}"
    if not isinstance(entry, yaml.MappingNode):
        raise ConfigError(f"{line}: expected a node with {_names(NODE_OPTIONS)}")
    values: dict[str, Any] = {}
    for key, node in entry.value:
        name = str(key.value)
        where = f"config {path}, line {key.start_mark.line + 1}: {name}"
        if name not in known or name in values:
            raise ConfigError(f"{where}: expected each of {_names(NODE_OPTIONS)} once at most")
        values[name] = value_of(known[name], node, where)
    return values


def value_of(option: Option, node: yaml.Node, where: str) -> Any:
    """The value of a key; ConfigError if the option does not take it."""
    try:
        loader = yaml.SafeLoader("")
        value = loader.construct_object(node, deep=True)
        one = option.is_list and not isinstance(value, list) and value != (option.word or None)
        return option.take([value] if one else value)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: {error}") from error
    except (AttributeError, LookupError, TypeError) as error:  # of PyYAML, for wrong tags
        raise ConfigError(f"{where}: {node.tag} does not fit the value") from error


def _names(options: Sequence[Option]) -> str:
    return ", ".join(sorted(option.name for option in options))


def generation_defaults(folder: Path, options: Sequence[Option]) -> dict[str, Any]:
    """The options that generation_config.json in a model's folder sets; {} without that file.

    As in transformers, the file counts only if do_sample is true, and null sets nothing.

    Raises:
        FormatError: a value is wrong; the message names file and key.
        ModelError: the file cannot be read.
    """
    path = folder / "generation_config.json"
    config = read_json_if_any(path)
    if config.get("do_sample") is not True:
        return {}
    given = [option for option in options if config.get(option.name) is not None]
    return {option.name: _stored(option, config[option.name], path) for option in given}


def pooling_default(folder: Path) -> str:
    """How a model's folder says that texts are embedded, in a file of sentence-transformers.

    Raises:
        FormatError: it says something else than a mean or the last state.
        ModelError: the file cannot be read.
    """
    path = folder / POOLING_FILE
    config = read_json_if_any(path)
    given = [name for name, value in config.items() if name.startswith(FLAG) and value is True]
    given += [config["pooling_mode"]] if "pooling_mode" in config else []
    modes = [str(name).removeprefix(FLAG) for name in given]
    if not modes:
        return MEAN
    if len(modes) > 1 or modes[0] not in POOLING_MODES:
        raise FormatError(path, "pooling mode", shown(", ".join(modes)), "mean_tokens or lasttoken")
    return POOLING_MODES[modes[0]]


def _stored(option: Option, value: object, path: Path) -> Any:
    """The value of a key of a JSON file; FormatError if the option does not take it."""
    try:
        return option.check(value)
    except ValueError:
        raise FormatError(path, option.name, shown(value), option.expected) from None
