"""Which nodes take part, and what each holds of the model, where nobody says it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from dllama.cluster.layout import Layout
from dllama.cluster.speed.auto_nodes import settle
from dllama.cluster.speed.shares import best_shares, differ, words
from dllama.cluster.speed.speeds import Measured, UnmeasuredError, measure_nodes
from dllama.errors import ConfigError
from dllama.graph.graph import Graph
from dllama.graph.shard import Shard, split
from dllama.model.stored_model import StoredModel
from dllama.model.weight_types import WeightType
from dllama.options import SHARES
from dllama.planning.messages import Round
from dllama.planning.timing import (
    PASS,
    TELLING,
    LinkSpeed,
    node_seconds,
    round_seconds,
    rounds_between,
)
from dllama.planning.work import Shape
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint
from dllama.runtime.node import graph_of

log = logging.getLogger("dllama.engine")

ALIKE = 1.1  # nodes whose speeds differ by less get equal shares
SLOW = 0.5  # a node below this part of the fastest one's speed may be left out
GAIN = 1.1  # if a token is faster without it by this factor
NEAR = 0.5  # of its memory: if a node's weights take less, the rest fits too
TOKEN = Shape(rows=1, context=256)  # the pass by whose time shares are chosen
EMBEDDED = 4  # bytes of a number of an embedding, at most
# How nodes are taken to be connected, where nobody knows. It counts where a node may be left out.
LINK = LinkSpeed(rate=125e6, latency=100e-6)
OVER = 1e3  # seconds of a token that a byte too much for each byte of memory counts as


@dataclass(frozen=True)
class Choice:
    """Which nodes take part, and their shares.

    Args:
        ranks: of the nodes that take part, in the layout that was asked.
        shares: of these nodes.
        seconds: of a token, as predicted.
    """

    ranks: tuple[int, ...]
    shares: tuple[float, ...]
    seconds: float


def fit(
    model: StoredModel, layout: Layout, shares: object, config: RunConfig
) -> tuple[Layout, RunConfig]:
    """Return who takes part and with which shares, by the measured speed of all nodes.

    Nodes of this machine are equal, and shares that are given stay. See `settle` for a number of
    nodes that is not settled.

    Args:
        model: the open model.
        layout: the nodes that are there.
        shares: the option: "auto", None for the same unless nodes are alike, or what each holds.
        config: with these shares, or equal ones.

    Raises:
        ConfigError: the nodes cannot be measured.
        TransportError, AuthenticationError, ProtocolError: a worker cannot be reached, refuses or
            fails; the message names it.
    """
    if layout.alone and shares not in (None, SHARES.word):
        raise ConfigError("nodes is auto, so shares cannot be given")
    if not layout.addresses or shares not in (None, SHARES.word):
        return settle(model, layout, config)
    if layout.transport and layout.transport.launched():
        if shares is None:
            return layout, config
        raise ConfigError(f"shares is auto, which transport {layout.transport.name} cannot do")
    try:
        nodes = measure_nodes(layout, weight_types(model), config.timeout)
    except UnmeasuredError as error:
        if shares is not None:
            raise
        log.warning("equal shares: %s", error)
        return layout, config
    chooser = Chooser(model, config, layout.threads, nodes)
    if shares is None and not differ(chooser.speeds, ALIKE):
        return layout, config
    choice = chooser.choose()
    told = ", ".join(f"{nodes[rank].name} {chooser.rate(rank)}" for rank in choice.ranks)
    log.warning("shares %s by measured speed (%s)", words(choice.shares), told)
    return layout.only(choice.ranks), replace(config, shares=choice.shares)


def weight_types(model: StoredModel) -> list[WeightType]:
    """The types of the matrices of a model that passes read."""
    graph = graph_of(model.spec, RunConfig.of(model.spec, 1), 0, model.path)
    return sorted({matrix.weight_type for matrix in graph.matrices})


class Chooser:
    """Chooses nodes and shares.

    Args:
        model: the open model.
        config: what nodes would agree on.
        threads: of the nodes by rank, for the memory that they take.
        nodes: as they were measured, by rank.

    Attributes:
        speeds: tokens per second of each node, if it held all of the model.
    """

    def __init__(
        self,
        model: StoredModel,
        config: RunConfig,
        threads: Sequence[int],
        nodes: Sequence[Measured],
    ) -> None:
        self._model, self._config, self._threads, self._nodes = model, config, threads, nodes
        self._known: dict[object, tuple[list[float], float]] = {}
        self._rounds: dict[int, list[list[Round]]] = {}
        whole = graph_of(model.spec, replace(config, shares=(1.0,)), 0, model.path)
        self.speeds = [1 / sum(self._working(whole, node, 1)) for node in nodes]
        self._main = _most_read(whole)

    def rate(self, rank: int) -> str:
        """What a node reads per second, of the type that most weights have."""
        return f"{self._nodes[rank].speed.kernels[self._main].bandwidth / 1e9:.1f} GB/s"

    def choose(self) -> Choice:
        """Return the best shares of all nodes, or of fewer if that is faster; it says so."""
        best = self._shared(tuple(range(len(self._nodes))))
        while len(best.ranks) > 2:
            slowest = min(best.ranks[1:], key=lambda rank: self.speeds[rank])
            if self.speeds[slowest] > SLOW * max(self.speeds[rank] for rank in best.ranks):
                break
            fewer = self._shared(tuple(rank for rank in best.ranks if rank != slowest))
            if best.seconds < GAIN * fewer.seconds:
                break
            log.warning(
                "leaving out %s (%s): %d nodes make about %s tokens/s, with it %s",
                self._nodes[slowest].name, self.rate(slowest), len(fewer.ranks),
                f"{1 / fewer.seconds:.3g}", f"{1 / best.seconds:.3g}",
            )  # fmt: skip
            best = fewer
        return best

    def _shared(self, ranks: tuple[int, ...]) -> Choice:
        """The best shares of some nodes."""
        speeds = [self.speeds[rank] for rank in ranks]
        shares = best_shares(
            speeds, self._model.spec.n_heads, lambda tried: self.seconds(ranks, tried)
        )
        return Choice(ranks, shares, self.seconds(ranks, shares))

    def seconds(self, ranks: Sequence[int], shares: tuple[float, ...]) -> float:
        """Predict a token; memory that a node lacks makes it very long."""
        config = replace(self._config, shares=shares)
        shards = split(self._model.spec, shares, config.exact)
        found = [self._node(node, shard, config) for node, shard in zip(ranks, shards, strict=True)]
        together = zip(*(parts for parts, _ in found), strict=True)
        working: float = sum(max(parts) for parts in together)
        return working + self._transferring(ranks) + sum(over for _, over in found)

    def _transferring(self, ranks: Sequence[int]) -> float:
        """Seconds that some nodes do not work in a pass."""
        links = [_link(self._nodes[rank]) for rank in ranks[1:]]
        links.insert(0, min(links, key=lambda link: link.latency, default=LINK))  # the root's
        rounds = chain(*self._between(len(ranks)))
        return PASS + TELLING + sum(round_seconds(one, links).total for one in rounds)

    def _between(self, count: int) -> list[list[Round]]:
        """What some nodes send. Shares change little about it."""
        if count not in self._rounds:
            config = replace(self._config, shares=(1.0,) * count)
            graph = graph_of(self._model.spec, config, 0, self._model.path)
            self._rounds[count] = rounds_between(graph, config, TOKEN, EMBEDDED)
        return self._rounds[count]

    def _working(self, graph: Graph, node: Measured, count: int) -> list[float]:
        """Seconds of each piece of work of one of some nodes between transfers."""
        between, rank = self._between(count), graph.shard.rank
        found = node_seconds(graph, rank, between, node.speed, self._config, TOKEN)
        return [one.total for one in found]

    def _node(self, node: int, shard: Shard, config: RunConfig) -> tuple[list[float], float]:
        """Seconds of a node's work between transfers, and for memory that it lacks."""
        networks = [[one.hidden for one in some] for some in shard.networks.values()]
        linear = shard.linear and shard.linear.heads
        key = str((node, shard.world_size, shard.heads, networks, shard.vocab, linear))
        if key not in self._known:
            graph = graph_of(self._model.spec, config, shard.rank, self._model.path)
            parts = self._working(graph, self._nodes[node], shard.world_size)
            self._known[key] = parts, self._lacking(node, graph, config)
        return self._known[key]

    def _lacking(self, node: int, graph: Graph, config: RunConfig) -> float:
        """What a token counts as longer because a node has too little memory."""
        memory = self._nodes[node].memory
        weights = sum(one.weight_type.nbytes(one.rows * one.cols) for one in graph.matrices)
        if not memory or weights < NEAR * memory:
            return 0.0
        threads, rank = self._threads[node] or 1, graph.shard.rank
        needed = sum(footprint(self._model, config, threads=threads, rank=rank).values())
        return OVER * max(0.0, needed / memory - 1)


def _link(worker: Measured) -> LinkSpeed:
    """How a worker is connected: half of its round trip is the latency, where that is known."""
    if worker.round_trip is None:
        return LINK
    return replace(LINK, latency=worker.round_trip / 2)


def _most_read(graph: Graph) -> WeightType:
    """The type that most weights have."""
    counts: dict[WeightType, int] = {}
    for one in graph.matrices:
        counts[one.weight_type] = counts.get(one.weight_type, 0) + one.rows * one.cols
    return max(counts, key=lambda kind: counts[kind])
