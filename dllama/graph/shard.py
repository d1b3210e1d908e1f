"""The split: which part of a model each node holds, as pure functions.

Megatron-style tensor parallelism (Shoeybi et al. 2019, section 3): attention is split by
query heads, the feed-forward network (or every expert) by hidden units, the output matrix by
rows, all in contiguous ranges. Nodes are numbered by rank from 0, the root; `world_size` is how
many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dllama.errors import ConfigError
from dllama.graph import sum_tree as summation
from dllama.graph.ranges import deal
from dllama.graph.sum_tree import Summation
from dllama.model.spec import ModelSpec

# Hidden units are dealt out in whole blocks, so that quantised rows can be cut between them.
BLOCK = 32


@dataclass(frozen=True)
class Shard:
    """The part of a model that the node of one rank holds.

    heads: query heads. kv_heads: the KV heads these read, which other nodes may hold too.
    hidden: units of the feed-forward network, or of every expert, maybe none. vocab: rows of the
    output matrix. output_sum, down_sum: its part of the sums over the columns of the output and
    the down projection.
    """

    rank: int
    world_size: int
    heads: range
    kv_heads: range
    hidden: range
    vocab: range
    output_sum: Summation
    down_sum: Summation


def split(spec: ModelSpec, shares: Sequence[float], exact: bool = True) -> list[Shard]:
    """The shards of all nodes, of sizes in proportion to the shares.

    exact: what nodes send each other is exact, so they add it in the order of one node where they
    can; otherwise every node hands on one sum. ConfigError for more nodes than query heads or rows
    of the output matrix, and for a share that is not positive.
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
    blocks = deal(-(-spec.ffn_dim // BLOCK), shares)
    vocab = deal(spec.vocab_size, shares, 1)
    output, down = output_sums(spec, heads, exact), down_sums(spec, blocks, exact)
    return [
        Shard(
            rank,
            world_size,
            heads[rank],
            kv_heads_of(spec, heads[rank]),
            hidden_of(spec, blocks[rank]),
            vocab[rank],
            output[rank],
            down[rank],
        )
        for rank in range(world_size)
    ]


def kv_heads_of(spec: ModelSpec, heads: range) -> range:
    """The KV heads that a range of query heads, not empty, reads."""
    group = spec.n_heads // spec.n_kv_heads
    return range(heads.start // group, (heads.stop - 1) // group + 1)


def hidden_of(spec: ModelSpec, blocks: range) -> range:
    """The hidden units of these blocks, the last of which may be shorter."""
    return range(min(spec.ffn_dim, BLOCK * blocks.start), min(spec.ffn_dim, BLOCK * blocks.stop))


def columns_of(spec: ModelSpec, heads: range) -> range:
    """The columns of the output projection for these heads, cut at whole blocks.

    Where the size of a head is not a multiple of the longest block of these weights in any layer,
    the range holds columns of neighbouring heads too, for which a node has zeros as input.
    """
    unit = spec.o_block
    begin = heads.start * spec.head_dim // unit * unit
    end = -(-heads.stop * spec.head_dim // unit) * unit
    return range(begin, end)


def output_sums(spec: ModelSpec, heads: Sequence[range], exact: bool) -> list[Summation]:
    """How each node sums the columns of its heads; cut between heads that share no block."""
    unit = spec.o_block
    tree = summation.tree_of(spec.n_heads, 1, lambda head: head * spec.head_dim % unit == 0)
    return summation.summations(heads, tree, lambda part: len(columns_of(spec, part)), exact)


def down_sums(spec: ModelSpec, blocks: Sequence[range], exact: bool) -> list[Summation]:
    """The same of the columns of hidden units, of the feed-forward network or of every expert."""
    tree = summation.tree_of(-(-spec.ffn_dim // BLOCK))
    return summation.summations(blocks, tree, lambda part: len(hidden_of(spec, part)), exact)
