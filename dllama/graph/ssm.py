"""Adds the tasks of Mamba-2 beside attention to a graph (Dao and Gu 2024, arXiv 2405.21060)."""

from __future__ import annotations

from dllama.graph.builder import GraphBuilder
from dllama.graph.graph import Delta, Product, Scan
from dllama.graph.matrices import linear_projections, numbers_of, whole
from dllama.graph.shard import LinearHeads, whole_blocks
from dllama.model.layer import Linear, Ssm


def scanned(b: GraphBuilder, held: LinearHeads, sizes: Linear) -> Product | None:
    """Add the tasks of the node's value heads, and return their part of the output projection.

    They read the norm of x, which has been computed for attention. A node without heads has no
    part.
    """
    spec, at, ssm = b.spec, b.at, sizes.ssm
    assert ssm is not None
    if not held.heads:
        if ssm.norm:
            _gather(b, held)
        return None
    delta = b.delta(b.layer)
    projected = _projected(b, held, delta, ssm)
    columns = whole_blocks(held.heads, sizes.value_dim, spec.linear_block)
    mixed = b.buffer("linear_mixed", len(columns))
    scan = Scan(held.heads.start, ssm.norm_first, ssm.conv_bias, ssm.least_step, ssm.most_step)
    weight = b.vector(at + "ssm", *_vector(at, held, sizes))
    squares = b.buffer("linear_squares", sizes.value_heads) if ssm.norm else ""
    b.task("ssm", projected, mixed, weight=weight, delta=delta, ssm=scan, squares=squares)
    if ssm.norm:
        _gather(b, held)
        name = at + "linear_norm"
        norm = b.vector(name, (name, numbers_of(held.heads, sizes.value_dim)))
        fields = {"delta": delta, "ssm": scan, "squares": squares, "epsilon": spec.norm_epsilon}
        b.task("ssm_norm", projected, mixed, weight=norm, **fields)
    o = whole(spec, at + "linear_o", range(spec.dim), columns)
    if o.weight_type.quantised:
        b.encode("linear_mixed", len(columns))
    src = b.input("linear_mixed", len(columns), o.weight_type)
    return Product(src, b.matrix(o), held.output_sum.segments)


def _gather(b: GraphBuilder, held: LinearHeads) -> None:
    """Exchange sums of squares, if any node has a part of what is normalised together."""
    group = b.spec.linear_value_heads // b.spec.linear_key_heads
    if any(heads.stop % group for heads in held.heads_of):
        squares = b.buffer("linear_squares", b.spec.linear_value_heads)
        parts = tuple((heads, range(0)) for heads in held.heads_of)
        b.transfer("gather", squares, squares, held=parts)


def _projected(b: GraphBuilder, held: LinearHeads, delta: Delta, ssm: Ssm) -> str:
    """The buffer with values, keys, queries, z and time steps of the norm of x."""
    width = delta.channels + delta.count * (delta.value_dim + 1)
    projected = b.buffer("linear_projected", width)
    for matrix, column in linear_projections(b.spec, held, b.at):
        biases = ((piece.tensor + "_bias", piece.rows) for piece in matrix.slices)
        bias = b.vector(matrix.name + "_bias", *biases) if ssm.biases else ""
        src = b.input("normed", b.spec.dim, matrix.weight_type)
        b.multiply("matmul", src, projected, matrix, column=column, bias=bias)
    return projected


def _vector(at: str, held: LinearHeads, sizes: Linear) -> list[tuple[str, range]]:
    """The pieces of the vector of the scan: conv, its bias, a_log, dt_bias, skip.

    Channels are those of values, keys and queries.
    """
    keys = numbers_of(held.key_heads, sizes.key_dim)
    values = numbers_of(held.heads, sizes.value_dim)
    places = ((0, values), (sizes.values, keys), (sizes.values + sizes.keys, keys))
    channels = [range(first + some.start, first + some.stop) for first, some in places]
    conv = [(at + "conv", numbers_of(some, sizes.taps)) for some in channels]
    assert sizes.ssm is not None
    if sizes.ssm.conv_bias:
        conv += [(at + "conv_bias", some) for some in channels]
    return [*conv, *((at + name, held.heads) for name in ("a_log", "dt_bias", "skip"))]
