"""A cluster that is described in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dllama.errors import ConfigError
from dllama.model.weight_types import WeightType
from dllama.options import GIVEN_SHARES, MAX_NODES, THREADS
from dllama.options.files import entries, value_of
from dllama.options.option import Option
from dllama.planning.timing import LinkSpeed
from dllama.planning.units import BANDWIDTH, COMPUTE, MEMORY, RATE, TIME, Quantity
from dllama.runtime.speed import KernelSpeed, NodeSpeed

# What a stage takes where a description does not say it: seconds, on a Raspberry Pi or a PC.
STAGE = 2e-6
# And a message: seconds, on one core of Zen 4.
MESSAGE = 10e-6


@dataclass(frozen=True)
class Machine:
    """A node of a cluster that need not be there.

    Args:
        name: for reports.
        speed: of its kernels.
        link: that connects it.
        memory: bytes that the model may take; None for as many as it needs.
        threads: that compute.
        share: of the model; None for what suits its speed.
    """

    name: str
    speed: NodeSpeed
    link: LinkSpeed
    memory: float | None = None
    threads: int = 1
    share: float | None = None


def _quantity(name: str, quantity: Quantity, help_text: str) -> Option:
    return Option(name, str, help_text, test=quantity.parse)


NODE = (
    Option("name", str, "what reports call the node"),
    Option("count", int, "so many nodes of this kind", least=1, most=MAX_NODES),
    _quantity("memory", MEMORY, "what the model may take"),
    _quantity("bandwidth", BANDWIDTH, "of weights that the kernels read for a token"),
    _quantity("compute", COMPUTE, "multiply-adds of the kernels for a prompt"),
    _quantity("stage", TIME, "what each stage of a pass takes besides"),
    _quantity("message", TIME, "of a processor for a short message, at both ends together"),
    THREADS,
    replace(GIVEN_SHARES, name="share", commas=False),
)
LINK = (
    _quantity("rate", RATE, "of a node in each direction"),
    _quantity("latency", TIME, "of a short message, one way, besides"),
)
LINK_KEY = "link"
WHAT = "cluster description"  # how messages call the file


def read_cluster(path: Path) -> list[Machine]:
    """The nodes of a description, the root first.

    Raises:
        ConfigError: the file is wrong; the message names file, line and key.
        InputError: it cannot be read.
    """
    found: dict[str, yaml.Node] = {}
    for key, node in entries(path, WHAT):
        if key.value not in ("nodes", LINK_KEY) or key.value in found:
            raise ConfigError(
                f"{_line(path, key)}: {key.value}: expected nodes and link, each once"
            )
        found[key.value] = node
    nodes = found.get("nodes")
    if not isinstance(nodes, yaml.SequenceNode) or not nodes.value:
        raise ConfigError(f"{WHAT} {path}: nodes: expected a list of nodes")
    common = _link(found[LINK_KEY], path) if LINK_KEY in found else None
    machines: dict[str, Machine] = {}
    for node in nodes.value:
        for machine in _machines(node, path, common, len(machines)):
            if machine.name in machines:
                raise ConfigError(f"{_line(path, node)}: there is another node {machine.name}")
            machines[machine.name] = machine
    if len(machines) > MAX_NODES:
        raise ConfigError(f"{WHAT} {path}: {len(machines)} nodes, expected at most {MAX_NODES}")
    return [*machines.values()]


def _line(path: Path, node: yaml.Node) -> str:
    return f"{WHAT} {path}, line {node.start_mark.line + 1}"


def _machines(node: yaml.Node, path: Path, common: LinkSpeed | None, before: int) -> list[Machine]:
    """The nodes of an entry after some others; they all have the same description."""
    values, own = _mapping(node, path, NODE, "a node")
    for name in ("bandwidth", "compute"):
        if name not in values:
            raise ConfigError(f"{_line(path, node)}: a node without {name}")
    link = _link(own, path) if own else common
    if link is None:
        raise ConfigError(f"{_line(path, node)}: a node without a link, as there is none for all")
    kernel = KernelSpeed(BANDWIDTH.parse(values["bandwidth"]), COMPUTE.parse(values["compute"]))
    stage, message = [
        TIME.parse(values[name]) if name in values else usual
        for name, usual in (("stage", STAGE), ("message", MESSAGE))
    ]
    threads = values.get("threads", 1)
    machine = Machine(
        values.get("name", f"node-{before + 1}"),
        NodeSpeed(threads, stage, message, dict.fromkeys(WeightType, kernel)),
        link,
        MEMORY.parse(values["memory"]) if "memory" in values else None,
        threads,
        values.get("share"),
    )
    count = values.get("count", 1)
    if count == 1:
        return [machine]
    start, name = (1, machine.name) if "name" in values else (before + 1, "node")
    return [replace(machine, name=f"{name}-{start + number}") for number in range(count)]


def _link(node: yaml.Node, path: Path) -> LinkSpeed:
    values, _ = _mapping(node, path, LINK, "a link")
    for option in LINK:
        if option.name not in values:
            raise ConfigError(f"{_line(path, node)}: a link without {option.name}")
    return LinkSpeed(RATE.parse(values["rate"]), TIME.parse(values["latency"]))


def _mapping(
    node: yaml.Node, path: Path, options: tuple[Option, ...], what: str
) -> tuple[dict[str, Any], yaml.Node | None]:
    """The keys of a node or a link, and the link of a node."""
    known: Mapping[str, Option] = {option.name: option for option in options}
    names = ", ".join(known) + (f", {LINK_KEY}" if options is NODE else "")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{_line(path, node)}: expected {what} with {names}")
    values: dict[str, Any] = {}
    link: yaml.Node | None = None
    for key, value in node.value:
        name, where = str(key.value), f"{_line(path, key)}: {key.value}"
        if name == LINK_KEY and options is NODE and link is None:
            link = value
        elif name not in known or name in values:
            raise ConfigError(f"{where}: expected each of {names} once at most")
        else:
            values[name] = value_of(known[name], value, where)
    return values, link
