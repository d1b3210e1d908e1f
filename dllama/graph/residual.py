"""Adds what a block computes to the residual stream x."""

from __future__ import annotations

from collections.abc import Callable

from dllama._kernels.tasks import Then
from dllama.graph.builder import GraphBuilder
from dllama.graph.sum_tree import Segment, Summation

# Adds the task of a matrix product. Arguments: the buffer of the result, what happens to the
# result, and the order in which columns are summed.
Product = Callable[[str, Then, tuple[Segment, ...]], None]


def add_bias(b: GraphBuilder, *names: str) -> Callable[[str], None]:
    """A function that adds the tasks that add vectors to a buffer."""

    def add(dst: str) -> None:
        for name in names:
            b.task("add", dst, dst, weight=b.vector(name, (name, range(b.spec.dim))))

    return add


def add_to_x(
    b: GraphBuilder,
    product: Product | None,
    sums: Summation,
    block: str,
    add: Callable[[str], None] | None = None,
    parts: str = "",
) -> None:
    """x += the sum of a product over all nodes, or its norm if the layer has norms after blocks.

    Args:
        b: the graph.
        product: adds the task of the product; None if the node has no columns.
        sums: the order in which the node sums its columns, and all nodes their sums.
        block: attention or ffn.
        add: adds the task that adds biases to the sum.
        parts: what the products are of, if not the block; a name for their buffer.
    """
    if b.shard.joins and b.features.parallel and not b.features.norms_after:
        _add_both_to_x(b, product, sums, block, add)
        return
    if b.features.norms_after:
        dst = total(b, product, sums, parts or block)
        if add:
            add(dst)
        b.norm(dst, "x", f"{b.at}{block}_post_norm", then=Then.ADD)
        return
    if b.shard.world_size > 1:
        dst = _part(b, product, sums, parts or block)
        begins = b.layer == 0 and block == "attention"
        b.transfer("all_reduce", dst, "x", then=Then.ADD, adds=sums.adds, begins=begins)
    elif product:
        product("x", Then.ADD, sums.segments)
    if add:
        add("x")


def total(b: GraphBuilder, product: Product | None, sums: Summation, parts: str) -> str:
    """The buffer of the sum of a product over all nodes; the arguments are those of add_to_x."""
    dst = _part(b, product, sums, parts)
    if b.shard.world_size == 1:
        return dst
    whole = b.buffer("branch", b.spec.dim)
    b.transfer("all_reduce", dst, whole, adds=sums.adds)
    return whole


def _part(b: GraphBuilder, product: Product | None, sums: Summation, parts: str) -> str:
    """The buffer of the sums of the node, with room for those of any block."""
    dst = b.buffer(f"{parts}_out", b.spec.dim, rows=b.shard.most_sums)
    if product:
        product(dst, Then.STORE, sums.segments)
    return dst


def _add_both_to_x(
    b: GraphBuilder,
    product: Product | None,
    sums: Summation,
    block: str,
    add: Callable[[str], None] | None,
) -> None:
    """The same for parallel blocks: each node adds its sums of both, so one all-reduce follows.

    On one node the sum of the second block would be added to x, so the last bits differ from these.
    The arguments are those of add_to_x.
    """
    first = block == "attention"
    dst = b.buffer("blocks_out", b.spec.dim)
    if product:
        product(dst, Then.STORE if first else Then.ADD, sums.segments)
    if not first:
        adds = b.shard.sums[0].adds  # one sum of each node
        b.transfer("all_reduce", dst, "x", then=Then.ADD, adds=adds, begins=b.layer == 0)
    if add:
        add("x")
