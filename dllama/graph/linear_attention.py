"""Adds the tasks of linear attention, a gated delta network, to a graph."""

from __future__ import annotations

from dllama._kernels.tasks import Then
from dllama.graph.builder import GraphBuilder
from dllama.graph.matrices import linear_projections, numbers_of, whole
from dllama.graph.residual import add_to_x
from dllama.graph.shard import LinearHeads, whole_blocks
from dllama.graph.sum_tree import Segment


def linear_attention(b: GraphBuilder) -> None:
    """x += linear attention of the norm of x."""
    spec, at, held, sizes = b.spec, b.at, b.shard.linear, b.spec.linear_sizes
    assert held is not None
    if not held.heads:
        add_to_x(b, None, held.output_sum, "attention", parts="linear")
        return
    delta, matrices = b.delta(b.layer), [*linear_projections(spec, held, at)]
    norm = at + "attention_norm" if b.features.norms_before else ""
    b.norm_for("normed", norm, [matrix.weight_type for matrix, _ in matrices])
    width = delta.channels + delta.count * (delta.value_dim + 2)
    qkvz = b.buffer("linear_qkvz", width)
    for matrix, column in matrices:
        src = b.input("normed", spec.dim, matrix.weight_type)
        b.multiply("matmul", src, qkvz, matrix, column=column)
    weight = b.vector(at + "delta", *_delta_vector(b, held))
    columns = whole_blocks(held.heads, sizes.value_dim, spec.linear_block)
    dst = b.buffer("linear_mixed", len(columns))
    b.task("delta", qkvz, dst, weight=weight, delta=delta, epsilon=spec.norm_epsilon)
    o = whole(spec, at + "linear_o", range(spec.dim), columns)
    if o.weight_type.quantised:
        b.encode("linear_mixed", len(columns))
    mixed = b.input("linear_mixed", len(columns), o.weight_type)

    def project(dst: str, then: Then, sums: tuple[Segment, ...]) -> None:
        b.multiply("matmul", mixed, dst, o, then=then, sums=sums)

    add_to_x(b, project, held.output_sum, "attention", parts="linear")


def _delta_vector(b: GraphBuilder, held: LinearHeads) -> list[tuple[str, range]]:
    """The pieces of the vector of linear attention: conv, a_log, dt_bias, norm."""
    at, sizes = b.at, b.spec.linear_sizes
    keys = numbers_of(held.key_heads, sizes.key_dim * sizes.taps)
    values = numbers_of(held.heads, sizes.value_dim * sizes.taps)
    parts = ((0, keys), (sizes.keys, keys), (2 * sizes.keys, values))
    firsts = ((first * sizes.taps, some) for first, some in parts)
    conv = [range(first + some.start, first + some.stop) for first, some in firsts]
    return [
        *((at + "conv", numbers) for numbers in conv),
        (at + "a_log", held.heads),
        (at + "dt_bias", held.heads),
        (at + "linear_norm", range(sizes.value_dim)),
    ]
