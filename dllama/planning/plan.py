"""What a cluster will do with a model: memory, speed, what bounds it, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dllama.graph.graph import Graph
from dllama.graph.shard import Shard, split
from dllama.model.stored_model import StoredModel
from dllama.model.weight_types import WeightType
from dllama.planning.description import Machine
from dllama.planning.timing import PassTime, Seconds, pass_time
from dllama.planning.work import Shape
from dllama.run_config import RunConfig
from dllama.runtime.footprint import footprint
from dllama.runtime.node import graph_of

ALIKE = 1.1  # nodes whose speeds differ by less get equal shares
MOST_LISTED = 8  # numbers of nodes that a table has one by one; then powers of two follow
# Switches, in bits per second.
SWITCHES = (1e8, 1e9, 2.5e9, 1e10, 2.5e10, 1e11, 4e11)
# Gives so many nodes of a cluster, the root first.
Cluster = Callable[[int], list[Machine]]
# What a plan rests on, and where it comes from.
Sources = dict[str, str]
# Embeddings of these types have numbers that the root sends in 16 bits: published models do.
SHORT_EMBEDDINGS = (WeightType.F32, WeightType.F16, WeightType.BF16)


@dataclass(frozen=True)
class Texts:
    """What is generated.

    Args:
        prompt: tokens of each prompt.
        steps: tokens that are generated for each text.
        count: texts at once.
    """

    prompt: int
    steps: int
    count: int = 1


@dataclass(frozen=True)
class Prediction:
    """What some nodes will do.

    Args:
        machines: the nodes, the root first.
        shares: of the model, by rank.
        memory: bytes of weights, kv_cache and buffers of each node.
        token: a pass that generates a token of every text, halfway.
        prompt: passes over a prompt, all together.
        prompt_nodes: seconds that each node computes in these.
        texts: what is generated.
    """

    machines: tuple[Machine, ...]
    shares: tuple[float, ...]
    memory: tuple[dict[str, int], ...]
    token: PassTime
    prompt: Seconds
    prompt_nodes: tuple[float, ...]
    texts: Texts

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second, of all texts."""
        return self.texts.count / self.token.seconds.total

    @property
    def prompt_tokens_per_s(self) -> float:
        """Prompt tokens per second."""
        return self.texts.prompt / self.prompt.total

    @property
    def lacking(self) -> list[str]:
        """The nodes whose memory is too small."""
        pairs = zip(self.machines, self.memory, strict=True)
        return [
            one.name
            for one, used in pairs
            if one.memory is not None and sum(used.values()) > one.memory
        ]

    def row(self) -> dict[str, Any]:
        """The figures of a row of a table."""
        return {
            "nodes": len(self.machines),
            "tokens_per_s": self.tokens_per_s,
            "prompt_tokens_per_s": self.prompt_tokens_per_s,
            "bound": self.token.seconds.bound,
            "prompt_bound": self.prompt.bound,
            "memory": max(sum(used.values()) for used in self.memory),
            "fits": not self.lacking,
        }

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return {
            **self.row(),
            "ms": {name: 1e3 * value for name, value in vars(self.token.seconds).items()},
            "prompt_ms": {name: 1e3 * value for name, value in vars(self.prompt).items()},
            "nodes": [self._node(rank) for rank in range(len(self.machines))],
        }

    def _node(self, rank: int) -> dict[str, Any]:
        """The figures of a node."""
        return {
            "name": self.machines[rank].name,
            "memory": sum(self.memory[rank].values()),
            **self.memory[rank],
            "share": self.shares[rank] / sum(self.shares),
            "threads": self.machines[rank].threads,
            "rate": self.machines[rank].link.rate,
            "latency_ms": 1e3 * self.machines[rank].link.latency,
            "ms": 1e3 * self.token.nodes[rank],
            "prompt_ms": 1e3 * self.prompt_nodes[rank],
            "sent_bytes": self.token.sent[rank],
            "received_bytes": self.token.received[rank],
        }


class Planner:
    """Predicts what nodes do with a model.

    Args:
        model: the open model.
        texts: what is generated.
        settings: arguments of RunConfig.of, without shares.
    """

    def __init__(self, model: StoredModel, texts: Texts, settings: dict[str, Any]) -> None:
        self.model, self.texts, self.settings = model, texts, settings
        self._known: dict[object, tuple[list[Graph], list[dict[str, int]]]] = {}

    @cached_property
    def most(self) -> int:
        """Most nodes that the model can be split over."""
        return min(self.model.spec.n_heads, self.model.spec.vocab_size)

    def predict(
        self, machines: Sequence[Machine], shares: Sequence[float] | None = None
    ) -> Prediction:
        """Predict what some nodes do.

        Args:
            machines: the nodes, the root first.
            shares: of the model; None for what the nodes say, or what suits their speeds.

        Raises:
            ConfigError: the model cannot be split so.
        """
        config = self._config(len(machines), shares or self._shares(machines))
        threads = tuple(one.threads for one in machines)
        if (config, threads) not in self._known:
            self._known[config, threads] = self._distinct(config, threads)
        graphs, memory = self._known[config, threads]
        token = self._pass(graphs, config, machines, self._token)
        passes = [self._pass(graphs, config, machines, shape) for shape in self._prompts(config)]
        return Prediction(
            tuple(machines),
            config.shares,
            tuple(memory),
            token,
            sum((one.seconds for one in passes), Seconds()),
            tuple(map(sum, zip(*(one.nodes for one in passes), strict=True))),
            self.texts,
        )

    def table(self, cluster: Cluster, most: int) -> list[Prediction]:
        """Predictions for several numbers of nodes, up to `most`."""
        count = min(most, self.most)
        listed = {1 << power for power in range(9)} | {*range(1, MOST_LISTED + 1), count}
        return [self.predict(cluster(n)) for n in sorted(listed) if n <= count]

    def changes(self, cluster: Cluster, nodes: int) -> dict[str, Prediction]:
        """Predictions for a cluster with one thing changed, by what is changed."""
        found: dict[str, Prediction] = {}
        machines = cluster(nodes)
        if nodes < self.most:
            found["one more node"] = self.predict(cluster(nodes + 1))
        if nodes == 1:
            return found
        slowest = min(one.link.rate for one in machines)
        faster = [bits for bits in SWITCHES if bits / 8 > slowest * 1.01]
        if faster:
            rate = faster[0] / 8
            linked = [_linked(one, rate=max(rate, one.link.rate)) for one in machines]
            found[f"a switch of {faster[0] / 1e9:g} Gbit/s"] = self.predict(linked)
        halved = [_linked(one, latency=one.link.latency / 2) for one in machines]
        found["half the latency"] = self.predict(halved)
        return found

    def _config(self, nodes: int, shares: Sequence[float] | None) -> RunConfig:
        return RunConfig.of(self.model.spec, nodes, shares=shares, **self.settings)

    def _shares(self, machines: Sequence[Machine]) -> list[float] | None:
        """The shares that machines have, or those that suit their speeds; None for equal ones."""
        if any(one.share is not None for one in machines):
            return [1.0 if one.share is None else one.share for one in machines]
        config = self._config(1, None)
        graph = graph_of(self.model.spec, config, 0, self.model.path)
        speeds = [
            1 / sum(self._pass([graph], config, [one], self._token).nodes) for one in machines
        ]
        return speeds if max(speeds) > ALIKE * min(speeds) else None

    @property
    def _token(self) -> Shape:
        """A pass halfway through the generated tokens."""
        count = self.texts.count
        return Shape(count, self.texts.prompt + max(1, self.texts.steps // 2), count, count)

    def _prompts(self, config: RunConfig) -> list[Shape]:
        """The passes over a prompt."""
        whole, size = self.texts.prompt, config.batch
        ends = [*range(size, whole, size), whole]
        begins = [0, *ends[:-1]]
        return [
            Shape(end - begin, end, int(end == whole))
            for begin, end in zip(begins, ends, strict=True)
        ]

    def _pass(
        self, graphs: list[Graph], config: RunConfig, machines: Sequence[Machine], shape: Shape
    ) -> PassTime:
        short = self.model.info("embedding").weight_type in SHORT_EMBEDDINGS
        speeds, links = [one.speed for one in machines], [one.link for one in machines]
        return pass_time(graphs, config, speeds, links, shape, 2 if short else 4)

    def _distinct(
        self, config: RunConfig, threads: Sequence[int]
    ) -> tuple[list[Graph], list[dict[str, int]]]:
        """The graph and the memory of each node; nodes that hold as much share them."""
        graphs: dict[object, Graph] = {}
        memory: dict[object, dict[str, int]] = {}
        keys = [_key(shard) for shard in split(self.model.spec, config.shares, config.exact)]
        for rank, key in enumerate(keys):
            if key not in graphs:
                graphs[key] = graph_of(self.model.spec, config, rank, self.model.path)
            if (key, threads[rank]) not in memory:
                memory[key, threads[rank]] = footprint(
                    self.model, config, threads=threads[rank], rank=rank
                )
        return [graphs[key] for key in keys], [
            memory[key, count] for key, count in zip(keys, threads, strict=True)
        ]


def _linked(machine: Machine, **changed: Any) -> Machine:
    return replace(machine, link=replace(machine.link, **changed))


def _key(shard: Shard) -> object:
    """What the work and the memory of a node depend on."""
    linear = shard.linear and (len(shard.linear.heads), len(shard.linear.key_heads))
    networks = tuple(len(one.hidden) for some in shard.networks.values() for one in some)
    sums = (
        tuple(one.segments for one in shard.sums),
        tuple(len(one.adds[shard.rank]) for one in shard.sums),
    )
    heads = len(shard.heads), len(shard.kv_heads)
    return shard.rank == 0, heads, networks, linear, len(shard.vocab), sums


def best(table: Sequence[Prediction]) -> Prediction:
    """The prediction with the most tokens per second, of those that fit if any does."""
    fitting = [one for one in table if not one.lacking] or table
    return max(fitting, key=lambda one: one.tokens_per_s)


def described(machines: Sequence[Machine]) -> Cluster:
    """The first nodes of a description; more are like the last one."""

    def first(count: int) -> list[Machine]:
        more = range(len(machines), count)
        return [*machines[:count], *(replace(machines[-1], name=f"node {n + 1}") for n in more)]

    return first
