"""How long a pass takes on nodes of given speeds and links.

Nodes work at the same time and meet in every transfer. So a pass takes, for each piece of work
between two transfers, the time of the slowest node, and for each round of a transfer, one latency
and the time in which the busiest link sends or receives its bytes. A node's work includes its
processor's part of messages. An all-reduce of many rows overlaps with the work around it
(_kernels/interleave.py); nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from dllama._kernels.interleave import LEAST_ROWS
from dllama.graph.graph import Graph
from dllama.model.weight_types import WeightType
from dllama.planning.messages import Round, control, rounds_of
from dllama.planning.work import Shape, Work, split_work, transfers
from dllama.run_config import NUMBERS, RunConfig

# Measured on one core of Zen 4, as parts of the multiply-adds per second of products: attention,
# which computes in float32, and the numbers per second that other ops write.
ATTENTION = 0.2
NUMBERS_WRITTEN = 0.0075
# Seconds that a pass takes beside its stages: planning it, entering the kernels, choosing a token.
PASS = 150e-6
# And more where workers are told about a pass and reply: 100 to 150 us with the built-in model.
TELLING = 120e-6
# What Ethernet, IP and TCP add to a packet, and what a packet carries: bytes.
PACKET, PAYLOAD = 90, 1448


class Kernel(Protocol):
    """What products with weights of one type reach."""

    @property
    def bandwidth(self) -> float:
        """Bytes of weights per second with one row."""

    @property
    def compute(self) -> float:
        """Multiply-adds per second with many rows."""


class Speed(Protocol):
    """How fast a node computes."""

    @property
    def stage(self) -> float:
        """Seconds that each stage takes besides."""

    @property
    def message(self) -> float:
        """Seconds of a processor that a short message takes, at both ends together."""

    @property
    def kernels(self) -> Mapping[WeightType, Kernel]:
        """By weight type, at least one."""


@dataclass(frozen=True)
class LinkSpeed:
    """How fast a node is connected to all others.

    Args:
        rate: bytes per second, in each direction.
        latency: seconds of a short message from one program to another, without those that
            processors work for it.
        packet: bytes that a packet has besides; 0 for what is no network.
    """

    rate: float
    latency: float
    packet: int = PACKET

    def seconds(self, nbytes: int, peers: int) -> float:
        """The time in which bytes to or from some nodes pass."""
        packets = max(peers, -(-nbytes // PAYLOAD)) if nbytes else 0
        return (nbytes + packets * self.packet) / self.rate


@dataclass(frozen=True)
class Seconds:
    """Seconds by what they are spent on.

    Args:
        memory: reading weights, keys and values.
        compute: multiply-adds, where these take longer than reading.
        rate: bytes on links.
        latency: messages on their way.
        messages: what processors do for messages.
        overhead: everything else.
    """

    memory: float = 0.0
    compute: float = 0.0
    rate: float = 0.0
    latency: float = 0.0
    messages: float = 0.0
    overhead: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        mine, others = vars(self), vars(other)
        return Seconds(**{name: mine[name] + others[name] for name in mine})

    def times(self, factor: float) -> Seconds:
        """A part of each."""
        return Seconds(**{name: factor * value for name, value in vars(self).items()})

    @property
    def total(self) -> float:
        """All of them."""
        total: float = sum(vars(self).values())
        return total

    @property
    def inference(self) -> float:
        """Those of computing, on the slowest nodes."""
        return self.memory + self.compute + self.overhead

    @property
    def transfer(self) -> float:
        """Those of transfers."""
        return self.rate + self.latency + self.messages

    @property
    def bound(self) -> str:
        """What most of them are spent on: memory, compute, rate, latency or messages."""
        parts = {name: value for name, value in vars(self).items() if name != "overhead"}
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True)
class PassTime:
    """What a pass takes.

    Args:
        seconds: from its beginning to its end.
        nodes: seconds that each node computes and sends or receives messages, by rank.
        sent: bytes that each node sends in transfers.
        received: bytes that each node receives in transfers.
    """

    seconds: Seconds
    nodes: tuple[float, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]


def pass_time(
    graphs: Sequence[Graph],
    config: RunConfig,
    speeds: Sequence[Speed],
    links: Sequence[LinkSpeed],
    shape: Shape,
    embedded: int = 4,
) -> PassTime:
    """Predict a pass.

    Args:
        graphs: of all nodes, by rank.
        config: what they agree on.
        speeds: of the nodes.
        links: of the nodes; nothing for one node.
        shape: of the pass.
        embedded: bytes in which the root sends a number of an embedding, 2 or 4.
    """
    between = rounds_between(graphs[0], config, shape, embedded)
    works = [
        node_seconds(graph, rank, between, speed, config, shape)
        for rank, (graph, speed) in enumerate(zip(graphs, speeds, strict=True))
    ]
    seconds = Seconds(overhead=PASS + (TELLING if len(graphs) > 1 else 0.0))
    slowest = [max(parts, key=lambda one: one.total) for parts in zip(*works, strict=True)]
    sent = [sum((round_seconds(one, links) for one in rounds), Seconds()) for rounds in between]
    if config.halves and shape.rows >= LEAST_ROWS:
        sent = _exposed(graphs[0], sent, slowest)
    seconds = sum((*slowest, *sent), seconds)
    rounds = [*chain(*between[1:-1])]
    return PassTime(
        seconds,
        tuple(sum(one.total for one in parts) for parts in works),
        tuple(sum(one.sent[rank] for one in rounds) for rank in range(len(graphs))),
        tuple(sum(one.received[rank] for one in rounds) for rank in range(len(graphs))),
    )


def _exposed(graph: Graph, sent: list[Seconds], works: list[Seconds]) -> list[Seconds]:
    """What all-reduces take longer than the work that hides them.

    Each half of one has the time of half of the work before it, or after it. Nothing follows the
    last.

    Args:
        graph: of any node.
        sent: what is sent before, in and after the transfers.
        works: of the slowest nodes, before, between and after transfers.
    """
    hiding = [*(one.total for one in works[:-1]), 0.0]
    for at, task in enumerate(transfers(graph), 1):
        if task.op == "all_reduce" and sent[at].total:
            left = sum(max(0.0, sent[at].total - one) for one in hiding[at - 1 : at + 1]) / 2
            sent[at] = sent[at].times(left / sent[at].total)
    return sent


def rounds_between(
    graph: Graph, config: RunConfig, shape: Shape, embedded: int
) -> list[list[Round]]:
    """What nodes send before, in and after the transfers of a pass.

    Args:
        graph: of any node.
        config: what nodes agree on.
        shape: of the pass.
        embedded: bytes in which the root sends a number of an embedding, 2 or 4.

    Returns:
        The rounds of what the root tells, of each transfer, and of what workers answer.
    """
    if config.world_size == 1:
        return [[], []]
    told, answered = control(graph.spec, config, shape)
    sent = [rounds_of(task, graph, config, shape.rows, embedded) for task in transfers(graph)]
    return [[told], *sent, [answered]]


def node_seconds(
    graph: Graph,
    rank: int,
    between: Sequence[Sequence[Round]],
    speed: Speed,
    config: RunConfig,
    shape: Shape,
) -> list[Seconds]:
    """The time of a node's work before, between and after its transfers, messages included.

    Args:
        graph: of the node.
        rank: of the node.
        between: as rounds_between gives it; its last messages belong to the last work.
        speed: of the node.
        config: what nodes agree on.
        shape: of the pass.
    """
    works = split_work(graph, shape, NUMBERS[config.kv_cache])
    counts = [sum(one.peers[rank] for one in rounds) for rounds in between]
    counts[-2:] = [sum(counts[-2:])]
    return [
        work_seconds(work, speed) + Seconds(messages=count * speed.message)
        for work, count in zip(works, counts, strict=True)
    ]


def work_seconds(work: Work, speed: Speed) -> Seconds:
    """The time of a node's work."""
    memory = compute = 0.0
    for kind, nbytes in work.reads.items():
        bandwidth, products = _reached(speed, kind)
        reading, multiplying = nbytes / bandwidth, work.products[kind] / products
        memory += reading if reading > multiplying else 0.0
        compute += multiplying if multiplying >= reading else 0.0
    fastest = max(one.compute for one in speed.kernels.values())
    reading = work.cache_bytes / max(one.bandwidth for one in speed.kernels.values())
    attending = work.attended / (ATTENTION * fastest)
    return Seconds(
        memory=memory + (reading if reading > attending else 0.0),
        compute=compute + (attending if attending >= reading else 0.0),
        overhead=work.stages * speed.stage + work.numbers / (NUMBERS_WRITTEN * fastest),
    )


def _reached(speed: Speed, kind: WeightType) -> tuple[float, float]:
    """Bandwidth and multiply-adds per second of a type; the least ones if it was not measured."""
    found = [speed.kernels[kind]] if kind in speed.kernels else [*speed.kernels.values()]
    return min(one.bandwidth for one in found), min(one.compute for one in found)


def round_seconds(one: Round, links: Sequence[LinkSpeed]) -> Seconds:
    """The time of a round of a transfer, without what nodes do for it."""
    busiest = max(
        link.seconds(max(sent, received), peers)
        for sent, received, peers, link in zip(*one, links, strict=True)
    )
    return Seconds(rate=busiest, latency=max(link.latency for link in links))
