"""How a model is split: what each node holds, as pure functions.

Megatron-style tensor parallelism (Shoeybi et al. 2019, section 3): attention is split by query
heads, the feed-forward network (or every expert) by hidden units, the output matrix by rows, all
in contiguous ranges. Ranks count from 0, the root; `world_size` is the number of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dllama.errors import ConfigError
from dllama.graph import sum_tree
from dllama.graph.ranges import deal
from dllama.graph.sum_tree import Summation
from dllama.model.spec import ModelSpec

# Hidden units are dealt out in whole blocks, so that quantised rows can be cut between them.
BLOCK = 32


@dataclass(frozen=True)
class Network:
    """What one node holds of feed-forward networks of some width, or of every expert.

    Args:
        hidden: its units; may be empty.
        down_sum: how columns of the down projection are summed.
    """

    hidden: range
    down_sum: Summation


@dataclass(frozen=True)
class LinearHeads:
    """What one node holds of linear attention.

    Args:
        heads: value heads; may be empty.
        key_heads: key heads that these read; other nodes may hold them too.
        output_sum: how columns of the output projection are summed.
        heads_of: value heads of every rank.
    """

    heads: range
    key_heads: range
    output_sum: Summation
    heads_of: tuple[range, ...]


@dataclass(frozen=True)
class Shard:
    """What one node holds of a model.

    Args:
        rank: the node.
        world_size: number of nodes.
        heads: query heads.
        kv_heads: KV heads that these read; other nodes may hold them too.
        vocab: rows of the output matrix.
        heads_of: query heads and KV heads of every rank.
        output_sums: by the elements of a head that the output projection reads, how its columns
            are summed.
        networks: by Layer.widths, the networks of these widths; first those of layers with experts.
        linear: what it holds of linear attention; None if the model has none.
        exact: whether nodes exchange float32, and add in the order of one node where possible.
    """

    rank: int
    world_size: int
    heads: range
    kv_heads: range
    vocab: range
    heads_of: tuple[tuple[range, range], ...]
    output_sums: Mapping[int, Summation]
    networks: Mapping[tuple[int, ...], tuple[Network, ...]]
    linear: LinearHeads | None = None
    exact: bool = True

    @property
    def hidden(self) -> range:
        """Units of the feed-forward network of most layers, or of every expert."""
        return next(iter(self.networks.values()))[0].hidden

    @cached_property
    def most_sums(self) -> int:
        """Most sums that the node has of any block, and at least 1."""
        return max(1, *(len(one.adds[self.rank]) for one in self.sums))

    @property
    def sums(self) -> tuple[Summation, ...]:
        """How columns are summed, in all blocks that there are."""
        linear = (self.linear.output_sum,) if self.linear else ()
        networks = (some[0].down_sum for some in self.networks.values())
        return (*self.output_sums.values(), *linear, *networks)

    @property
    def joins(self) -> bool:
        """Whether sums of several blocks may be added before they are sent."""
        return self.world_size > 1 and not self.exact

    def held_heads(self, n_heads: int) -> tuple[tuple[range, range], ...]:
        """The columns of every rank in rows of all query heads, then all KV heads."""
        return tuple(
            (heads, range(n_heads + kv.start, n_heads + kv.stop)) for heads, kv in self.heads_of
        )


def split(spec: ModelSpec, shares: Sequence[float], exact: bool = True) -> list[Shard]:
    """Split a model into shards, in proportion to the shares.

    Args:
        spec: the model.
        shares: a positive number for each node, by rank.
        exact: whether nodes exchange float32. If so, they add in the order of one node where
            possible. Otherwise every node sends one sum.

    Raises:
        ConfigError: there are more nodes than query heads or rows of the output matrix, or a share
            is not positive.
    """
    world_size = len(shares)
    if not all(0 < share < float("inf") for share in shares):
        raise ConfigError(f"shares are {list(shares)}, expected numbers above 0")
    if world_size > min(spec.n_heads, spec.vocab_size):
        raise ConfigError(
            f"nodes is {world_size}, expected at most {min(spec.n_heads, spec.vocab_size)}: "
            f"the model has {spec.n_heads} query heads and {spec.vocab_size} tokens"
        )
    heads = deal(spec.n_heads, shares, 1)
    networks = {widths: networks_of(widths, shares, exact) for widths in spec.widths}
    vocab = deal(spec.vocab_size, shares, 1)
    group = spec.n_heads // spec.n_kv_heads
    heads_of = tuple((one, kv_heads_of(group, one)) for one in heads)
    sizes = [*dict.fromkeys(spec.layer(layer).attention.values for layer in range(spec.n_layers))]
    output: dict[int, list[Summation]] = {}
    linear: Sequence[LinearHeads | None] = [None] * world_size
    if spec.ssm:
        output[sizes[0]], linear = sums_beside(spec, shares, exact)
    else:
        output = {size: output_sums(spec, heads, size, exact) for size in sizes}
        linear = linear_heads_of(spec, shares, exact) if spec.linear else linear
    return [
        Shard(
            rank,
            world_size,
            *heads_of[rank],
            vocab[rank],
            heads_of,
            {size: sums[rank] for size, sums in output.items()},
            {widths: nodes[rank] for widths, nodes in networks.items()},
            linear[rank],
            exact,
        )
        for rank in range(world_size)
    ]


def kv_heads_of(group: int, heads: range) -> range:
    """The KV heads, each read by `group` query heads, of a range of these that is not empty."""
    return range(heads.start // group, (heads.stop - 1) // group + 1)


def linear_heads_of(spec: ModelSpec, shares: Sequence[float], exact: bool) -> list[LinearHeads]:
    """What each node holds of linear attention: value heads, and the key heads that they read."""
    sizes, unit = spec.linear_sizes, spec.linear_block
    heads = deal(sizes.value_heads, shares)
    size = sizes.value_dim
    tree = sum_tree.tree_of(sizes.value_heads, 0, lambda head: head * size % unit == 0)
    sums = sum_tree.summations(heads, tree, lambda some: len(whole_blocks(some, size, unit)), exact)
    return _linear_heads(spec, heads, sums)


def _linear_heads(
    spec: ModelSpec, heads: Sequence[range], sums: Sequence[Summation]
) -> list[LinearHeads]:
    group = spec.linear_value_heads // spec.linear_key_heads
    keys = [range(one.start // group, -(-one.stop // group)) if one else one for one in heads]
    return [LinearHeads(*held, tuple(heads)) for held in zip(heads, keys, sums, strict=True)]


def sums_beside(
    spec: ModelSpec, shares: Sequence[float], exact: bool
) -> tuple[list[Summation], list[LinearHeads]]:
    """How each node sums the columns of attention, and what it holds of Mamba-2 beside it.

    Both are added segment by segment, so their columns are cut at the same parts. Value heads are
    dealt out so that their columns are whole blocks.
    """
    size, unit, head = spec.linear_value_dim, spec.linear_block, spec.layer(0).attention.values
    together = unit // math.gcd(size, unit)
    counts = spec.n_heads, spec.linear_value_heads // together

    def usable(border: tuple[int, ...]) -> bool:
        return border[0] * head % spec.o_block == 0

    tree, nodes, borders = sum_tree.tree_of_all(counts, shares, 1, usable)

    def queries(units: range) -> range:
        return range(borders[units.start][0], borders[units.stop][0])

    def values(units: range) -> range:
        return range(*(borders[end][1] * together for end in (units.start, units.stop)))

    def columns(units: range) -> int:
        held = queries(units)
        return len(whole_blocks(held, head, spec.o_block)) if held else 0

    attention = sum_tree.summations(nodes, tree, columns, exact)
    linear = sum_tree.summations(nodes, tree, lambda units: len(values(units)) * size, exact)
    return attention, _linear_heads(spec, [values(units) for units in nodes], linear)


def networks_of(
    widths: Sequence[int], shares: Sequence[float], exact: bool
) -> list[tuple[Network, ...]]:
    """What each node holds of networks of some widths, whose results are added to each other.

    They are a feed-forward network alone, or every expert, and a shared one. Their columns are cut
    at the same parts, so that the sums of the same segments can be added.
    """
    counts = [-(-width // BLOCK) for width in widths]
    tree, nodes, borders = sum_tree.tree_of_all(counts, shares)

    def hidden_of(network: int, units: range) -> range:
        """The hidden units; the last block of a network may be shorter."""
        ends = (BLOCK * borders[unit][network] for unit in (units.start, units.stop))
        return range(*(min(widths[network], end) for end in ends))

    def of(network: int) -> list[Network]:
        sums = sum_tree.summations(nodes, tree, lambda some: len(hidden_of(network, some)), exact)
        return [
            Network(hidden_of(network, held), one) for held, one in zip(nodes, sums, strict=True)
        ]

    return list(zip(*map(of, range(len(widths))), strict=True))


def whole_blocks(heads: range, size: int, unit: int) -> range:
    """The columns of some heads of a size, extended to multiples of a unit.

    If the size is not a multiple of the unit, the range includes columns of neighbouring heads. The
    node's input of an output projection is zero there.
    """
    return range(heads.start * size // unit * unit, -(-heads.stop * size // unit) * unit)


def output_sums(spec: ModelSpec, heads: Sequence[range], size: int, exact: bool) -> list[Summation]:
    """How each node sums the columns of its heads. Cuts are between heads that share no block.

    Args:
        spec: the model.
        heads: those of each node.
        size: elements of a head that the output projection reads.
        exact: as in `split`.
    """
    unit = spec.o_block
    tree = sum_tree.tree_of(spec.n_heads, 1, lambda head: head * size % unit == 0)
    return sum_tree.summations(heads, tree, lambda some: len(whole_blocks(some, size, unit)), exact)
