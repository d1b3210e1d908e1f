"""How fast the nodes of a cluster are: a root asks each worker, over a connection of its own.

A worker measures its kernels when it is asked first, and keeps what it found. It does not measure
while it serves a root. Until it has an answer it says so several times per timeout of the root,
with an empty message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dllama._kernels.comm.link import Link
from dllama.checks import shown
from dllama.cluster import names, protocol
from dllama.cluster.about import memory
from dllama.cluster.at_once import at_once
from dllama.cluster.background import background
from dllama.cluster.layout import Layout
from dllama.cluster.protocol import Kind
from dllama.errors import ProtocolError, TransportError
from dllama.model.weight_types import WeightType
from dllama.options import MAX_THREADS, TIMEOUT
from dllama.options.option import Option, checked
from dllama.runtime.kept_speed import node_speed
from dllama.runtime.speed import NodeSpeed

MEASURING = 60.0  # seconds that a worker may take to measure
SIGNS = 4  # signs of life within a timeout of the root
PAGE = 4096  # bytes


class UnmeasuredError(ProtocolError):
    """A worker cannot measure its kernels, for want of memory or files."""


@dataclass(frozen=True)
class Measured:
    """A node as it was measured.

    Args:
        name: what messages call it.
        speed: of its kernels.
        memory: bytes that it can have for a model; 0 if it does not know.
        round_trip: seconds from the root's system to its and back; None if that is not known.
    """

    name: str
    speed: NodeSpeed
    memory: int
    round_trip: float | None = None


QUESTION = (
    Option("threads", int, "that compute; 0 for the worker's own", least=0, most=MAX_THREADS),
    Option("types", str, "of weights", several=True,
           choices=tuple(kind.name.lower() for kind in WeightType)),
    Option("name", str, "of the root"),
    TIMEOUT,
)  # fmt: skip
MEMORY = Option("memory", int, "bytes for a model", least=0, most=1 << 60)
NAME = Option("name", str, "of the worker")


def measure_nodes(layout: Layout, types: Iterable[WeightType], timeout: float) -> list[Measured]:
    """Return the speed of every node, by rank. Workers measure at the same time, if they must.

    Raises:
        TransportError, AuthenticationError, ProtocolError: a worker cannot be reached, refuses or
            fails; the message names it.
    """
    wanted = list(types)
    links: list[Link] = []

    def ask(rank: int) -> Measured:
        return _ask(layout, rank, wanted, timeout, links)

    def interrupt() -> None:
        for link in links:
            link.interrupt()

    ranks = range(1, layout.world_size)
    workers = at_once(ask, ranks, interrupt)
    here = Measured("root", node_speed(wanted, layout.threads[0]), own_memory())
    return [here, *workers]


def _ask(
    layout: Layout, rank: int, types: Sequence[WeightType], timeout: float, links: list[Link]
) -> Measured:
    """Ask a worker how fast it is."""
    assert layout.transport is not None
    address = layout.addresses[rank - 1]
    try:
        link = layout.transport.connect(address, timeout)
    except TransportError as error:
        raise type(error)(f"worker {rank}: {error}") from error
    with link:
        links.append(link)
        name = layout.names[rank - 1] if layout.names else ""
        link.peer, link.timeout = names.worker(rank, name, address), timeout
        link.allow(timeout)
        protocol.greet(link, layout.secret, caller=True, plain=layout.plain)
        kinds = [kind.name.lower() for kind in types]
        question = {"threads": layout.threads[rank], "types": kinds, "name": names.host_name()}
        protocol.send_json(link, Kind.SPEED, {**question, "timeout": timeout})
        link.allow(MEASURING)
        content: dict[str, Any] = {}
        while not content:
            content = protocol.receive_json(link, Kind.SPEED)
        found = _reply(content, link.peer, address, types)
        return replace(found, round_trip=link.round_trip)


def _reply(
    content: dict[str, Any], peer: str, address: str, types: Sequence[WeightType]
) -> Measured:
    """Check a worker's reply; ProtocolError names the worker and what is wrong."""
    if "failed" in content:
        raise UnmeasuredError(f"{peer} cannot measure its kernels: {shown(content['failed'])}")
    try:
        speed = NodeSpeed.from_json(content.get("speed"))
        values = checked((NAME, MEMORY), content)
        if missing := [kind.name.lower() for kind in types if kind not in speed.kernels]:
            raise ValueError(f"the speed of {', '.join(missing)} is missing")
    except ValueError as error:
        raise ProtocolError(f"{peer}: {error}") from None
    return Measured(names.clean(values["name"]) or address, speed, values["memory"])


def tell(link: Link, content: dict[str, Any], name: str, threads: int) -> None:
    """Reply to SPEED; ProtocolError if the content is wrong.

    Args:
        link: where the question came from.
        content: of the question.
        name: of this worker.
        threads: of this worker, unless the question names a number.
    """
    values = question_of(content, link.peer)
    types = [WeightType[one.upper()] for one in values["types"]]
    link.timeout = values["timeout"]
    link.allow(MEASURING)
    speed = background(node_speed, types, values["threads"] or threads)
    while not wait([speed], link.timeout / SIGNS).done:
        protocol.send_json(link, Kind.SPEED, {})
    if error := speed.exception():
        reply: dict[str, Any] = {"failed": repr(error)}
    else:
        reply = {"name": name, "memory": own_memory(), "speed": speed.result().as_json()}
    protocol.send_json(link, Kind.SPEED, reply)


def question_of(content: dict[str, Any], peer: str) -> dict[str, Any]:
    """Check the content of SPEED; ProtocolError names the peer and the wrong field."""
    try:
        return checked(QUESTION, content)
    except ValueError as error:
        raise ProtocolError(f"{peer}: {error}") from None


def own_memory() -> int:
    """Bytes that this process can have for a model: those that are free, and those that it has."""
    free = memory().get("MemAvailable", 0)
    try:
        return free + PAGE * int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return free
