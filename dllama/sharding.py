"""The split: which part of a model each node holds, as pure functions.

Megatron-style tensor parallelism (Shoeybi et al. 2019, section 3): attention is split by
query heads, the feed-forward network (or every expert) by hidden units, the output matrix by
rows, all in contiguous ranges. Nodes are numbered by rank from 0, the root; `world` is how many
there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from math import gcd

from dllama.errors import ConfigError
from dllama.spec import ModelSpec

# Hidden units are dealt out in whole blocks, so that quantised rows can be cut between them.
BLOCK = 32


@dataclass(frozen=True)
class Shard:
    """The part of a model that the node of one rank holds.

    heads: query heads. kv_heads: the KV heads these read, which other nodes may hold too.
    hidden: units of the feed-forward network, or of every expert, maybe none. vocab: rows of the
    output matrix.
    """

    rank: int
    world: int
    heads: range
    kv_heads: range
    hidden: range
    vocab: range


def deal(count: int, shares: Sequence[float], least: int = 0) -> list[range]:
    """Cut 0 to count into one contiguous range per share, as long as the share is large.

    Borders are rounded; every range has `least` members or more, for which count suffices.
    """
    *sums, total = accumulate(map(Fraction, shares))
    borders = [0]
    for index, before in enumerate(sums, 1):
        border = round(count * before / total)
        behind = least * (len(shares) - index)
        borders.append(max(borders[-1] + least, min(border, count - behind)))
    borders.append(count)
    return [range(a, b) for a, b in pairwise(borders)]


def split(spec: ModelSpec, shares: Sequence[float]) -> list[Shard]:
    """The shards of all nodes, of sizes in proportion to the shares.

    ConfigError for more nodes than query heads or rows of the output matrix, and for a share
    that is not positive.
    """
    world = len(shares)
    if not all(0 < share < float("inf") for share in shares):
        raise ConfigError(f"shares are {list(shares)}, expected numbers above 0")
    if world > min(spec.n_heads, spec.vocab_size):
        raise ConfigError(
            f"nodes is {world}, expected at most {min(spec.n_heads, spec.vocab_size)}: the model "
            f"has {spec.n_heads} query heads and {spec.vocab_size} tokens"
        )
    heads = deal(spec.n_heads, shares, 1)
    blocks = deal(-(-spec.ffn_dim // BLOCK), shares)
    vocab = deal(spec.vocab_size, shares, 1)
    return [
        Shard(
            rank,
            world,
            heads[rank],
            kv_heads_of(spec, heads[rank]),
            range(
                min(spec.ffn_dim, BLOCK * blocks[rank].start),
                min(spec.ffn_dim, BLOCK * blocks[rank].stop),
            ),
            vocab[rank],
        )
        for rank in range(world)
    ]


def whole(spec: ModelSpec) -> Shard:
    """The shard of a node that is alone."""
    return split(spec, (1,))[0]


def kv_heads_of(spec: ModelSpec, heads: range) -> range:
    """The KV heads that a range of query heads, not empty, reads."""
    group = spec.n_heads // spec.n_kv_heads
    return range(heads.start // group, (heads.stop - 1) // group + 1)


def columns_of(spec: ModelSpec, heads: range) -> range:
    """The columns of the output projection for these heads, cut at whole blocks.

    Where the size of a head is not a multiple of the block of the weights, the range holds
    columns of neighbouring heads too, for which a node has zeros as input.
    """
    unit = spec.weight_type.block_size
    begin = heads.start * spec.head_dim // unit * unit
    end = -(-heads.stop * spec.head_dim // unit) * unit
    return range(begin, end)


def output_lanes(spec: ModelSpec) -> int:
    """Equal parts in which a sum of the output projection is cut: 8, 4, 2 or 1.

    The largest number that cuts heads, and blocks of quantised weights, evenly. Parts are added
    as a binary tree, so the sum is the same however many nodes hold the parts.
    """
    unit = spec.weight_type.block_size
    return _lanes(gcd(spec.n_heads, spec.q_dim // unit))


def hidden_lanes(spec: ModelSpec) -> int:
    """The same of the down projection, whose parts are whole blocks of 32 hidden units."""
    return _lanes(spec.ffn_dim // BLOCK) if spec.ffn_dim % BLOCK == 0 else 1


def _lanes(units: int) -> int:
    return next(lanes for lanes in (8, 4, 2, 1) if units % lanes == 0)


def lanes_of(part: range, count: int, lanes: int) -> int:
    """How many of the lanes of 0 to count a part is, if it is a subtree of them; else 1."""
    held = len(part) * lanes // count
    lane = count // lanes
    power = held > 0 and held & (held - 1) == 0
    if power and len(part) == held * lane and part.start % (held * lane) == 0:
        return held
    return 1
