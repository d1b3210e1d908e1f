"""Builds the forward pass of one node from the spec of a model.

One builder serves all families. A layer is two blocks: attention, then a feed-forward network or
experts. Each block ends in a sum over all nodes. Each function here adds the tasks of one section
of the pass to a GraphBuilder, with the buffers, matrices and vectors that they use. So the code of
a feature is in one place. x is the residual stream.
"""

from __future__ import annotations

from typing import Any

from dllama._kernels.tasks import Then
from dllama.errors import UnsupportedError
from dllama.graph.builder import GraphBuilder
from dllama.graph.graph import Graph, Heads
from dllama.graph.latents import mix_latents
from dllama.graph.layer_inputs import add_layer_input, make_layer_inputs
from dllama.graph.linear_attention import linear_attention
from dllama.graph.matrices import linear_projections, numbers_of, projections, whole
from dllama.graph.networks import (
    activation_of,
    experts,
    experts_beside,
    feed_forward,
    types_of_units,
)
from dllama.graph.residual import add_bias, add_to_x
from dllama.graph.shard import Shard, whole_blocks
from dllama.graph.ssm import scanned
from dllama.graph.sum_tree import Segment
from dllama.model.spec import Arch, HiddenAct, ModelSpec, QKNorm


def check_supported(spec: ModelSpec, path: object = "model") -> None:
    """UnsupportedError for combinations that a header can express but no model family has."""
    arch = spec.arch
    mixture = spec.n_experts > 0
    if arch is (Arch.QWEN3 if mixture else Arch.QWEN3_MOE):
        what = f"{arch.name.lower()} with {spec.n_experts} experts"
        raise UnsupportedError(f"{path}: architecture {what} is not supported")
    if spec.shared_hidden_dim and spec.ffn_bias:
        raise UnsupportedError(f"{path}: a shared expert with biases is not supported")
    if spec.dense_beside and (spec.ffn_bias or spec.shared_hidden_dim):
        what = "biases" if spec.ffn_bias else "a shared expert"
        raise UnsupportedError(f"{path}: dense_beside with {what} is not supported")
    if spec.layer_input_dim and spec.hidden_act is HiddenAct.CLAMPED:
        raise UnsupportedError(
            f"{path}: layer_input_dim with a clamped activation is not supported"
        )
    if mixture and not spec.pre_norms:
        raise UnsupportedError(f"{path}: experts without a norm before them are not supported")
    if mixture and not spec.ffn_gated:
        raise UnsupportedError(f"{path}: experts without gates are not supported")
    beside = {"experts": mixture, "latents": spec.kv_latent_dim, "linear attention": spec.linear}
    for what, there in beside.items():
        if spec.parallel_residual and there:
            raise UnsupportedError(f"{path}: parallel_residual with {what} is not supported")


def build(spec: ModelSpec, shard: Shard) -> Graph:
    """The forward pass of one node: embedding, layers, logits."""
    b = GraphBuilder(spec, shard)
    _embedding(b)
    if spec.layer_input_dim:
        make_layer_inputs(b)
    for layer in range(spec.n_layers):
        b.layer = layer
        if b.features.attends:
            _attention(b)
        else:
            linear_attention(b)
        if b.features.beside:
            experts_beside(b)
        elif b.features.experts:
            experts(b)
        else:
            feed_forward(b)
        if spec.layer_input_dim:
            add_layer_input(b, activation_of(spec))
        if spec.layer_scales:
            b.task("scale", "x", "x", weight=b.vector(b.at + "scale", (b.at + "scale", range(1))))
    _logits(b)
    return b.graph()


def _embedding(b: GraphBuilder) -> None:
    """x = rows of the embedding. Only the root has it, so it sends the rows to the others."""
    x = b.buffer("x", b.spec.dim)
    if b.shard.rank == 0:
        b.task("embed", "", x, weight="embedding")
    if b.shard.world_size > 1:
        b.transfer("broadcast", x, x)
    # The broadcast comes first: rows as stored may fit into 16 bits, scaled ones do not.
    if b.spec.embedding_scale != 1.0:
        b.task("scale", x, x, scale=b.spec.embedding_scale)


def _attention(b: GraphBuilder) -> None:
    """x += attention of the norm of x, and Mamba-2 of it if the layer has that beside attention."""
    spec, shard, at = b.spec, b.shard, b.at
    kind, heads = b.features.attention, _heads(b)
    columns = whole_blocks(shard.heads, kind.values, spec.o_block)
    mix, name = mix_latents if spec.kv_latent_dim else _mix, _sized(b, "mixed")
    mix(b, heads, b.buffer(name, len(columns)))
    o = whole(spec, at + "o", range(spec.dim), columns)
    if o.weight_type.quantised:
        b.encode(name, len(columns))
    mixed = b.input(name, len(columns), o.weight_type)
    linear = b.features.linear
    second = scanned(b, shard.linear, linear) if shard.linear and linear else None

    def project(dst: str, then: Then, sums: tuple[Segment, ...]) -> None:
        op = "pair_sum" if second else "matmul"
        b.multiply(op, mixed, dst, o, then=then, sums=sums, second=second)

    biases = {"o_bias": kind.o_bias, "linear_o_bias": linear and linear.ssm and linear.ssm.o_bias}
    names = [at + name for name, there in biases.items() if there]
    add = add_bias(b, *names) if names else None
    add_to_x(b, project, shard.output_sums[kind.values], "attention", add)


def _sized(b: GraphBuilder, name: str) -> str:
    """The name of a buffer whose width depends on the heads of the layer."""
    full = not b.features.attention.window and (b.spec.full_head_dim or b.spec.full_kv_heads)
    return f"full_{name}" if full else name


def _mix(b: GraphBuilder, heads: Heads, dst: str) -> None:
    """dst = the values of each head, mixed by attention to the norm of x."""
    spec, at, kind = b.spec, b.at, b.features.attention
    matrices = [*projections(spec, at, kind, b.shard.heads, b.kv_heads)]
    norm = at + "attention_norm" if b.features.norms_before else ""
    held = b.shard.linear if b.features.linear else None
    beside = linear_projections(spec, held, at) if held and held.heads else ()
    kinds = [matrix.weight_type for matrix, _ in (*matrices, *beside)]
    if b.features.parallel:
        kinds += types_of_units(b)
    b.norm_for("normed", norm, kinds)
    gate = (heads.count + 2 * heads.kv_count) * heads.size
    qkv = b.buffer(_sized(b, "qkv"), gate + kind.gate * heads.count * heads.size)
    for matrix, column in matrices:
        biases = ((piece.tensor + "_bias", piece.rows) for piece in matrix.slices)
        bias = b.vector(matrix.name + "_bias", *biases) if kind.biases else ""
        src = b.input("normed", spec.dim, matrix.weight_type)
        b.multiply("matmul", src, qkv, matrix, column=column, bias=bias)
    norms = _head_norms(b, qkv, heads)
    constant = ""
    if kind.biases and not kind.cap and not norms:  # else scores would change
        rows = numbers_of(b.kv_heads, heads.size)
        constant = b.vector(at + "k_bias", (at + "k_bias", rows))
    b.task("rope", qkv, qkv, heads=heads, epsilon=spec.norm_epsilon, bias=constant, **norms)
    sinks = b.vector(at + "sinks", (at + "sinks", b.shard.heads)) if kind.sinks else ""
    b.task("attention", qkv, dst, weight=sinks, heads=heads)
    if kind.gate:
        b.task("gate", qkv, dst, heads=heads, column=gate)


def _head_norms(b: GraphBuilder, qkv: str, heads: Heads) -> dict[str, Any]:
    """The norms of q and k, as fields of the rope task that applies them.

    A norm over all heads needs the squares of those of other nodes, too.
    """
    spec, shard, at, kind = b.spec, b.shard, b.at, b.features.attention
    names = ("q_norm", "k_norm")[: 1 if kind.shared else 2]
    if kind.norm is QKNorm.NONE:
        return {}
    centred = b.features.layer_norms
    if kind.norm is QKNorm.HEAD:
        weight = b.vector(at + "qk_norm", *((at + n, range(heads.size)) for n in names))
        return {"weight": weight, "centred": centred}
    parts = zip(names, (shard.heads, shard.kv_heads), strict=True)
    weights = ((at + name, numbers_of(held, heads.size)) for name, held in parts)
    weight = b.vector(at + "qk_norm", *weights)
    if kind.norm is QKNorm.APART:
        return {"weight": weight, "centred": centred, "apart": True}
    squares = b.buffer("head_squares", spec.n_heads + spec.n_kv_heads)
    b.task("head_squares", qkv, squares, heads=heads)
    if shard.world_size > 1:
        b.transfer("gather", squares, squares, held=shard.held_heads(spec.n_heads))
    return {"weight": weight, "squares": squares}


def _heads(b: GraphBuilder) -> Heads:
    """The heads of a node and how they attend in a layer."""
    spec, shard, kind = b.spec, b.shard, b.features.attention
    group, kv_heads = spec.n_heads // kind.kv_heads, b.kv_heads
    columns = whole_blocks(shard.heads, kind.values, spec.o_block)
    cache, cache_layer = b.cache
    return Heads(
        count=len(shard.heads),
        first=shard.heads.start,
        kv_count=len(kv_heads),
        first_kv=kv_heads.start,
        all=spec.n_heads,
        group=group,
        skipped=shard.heads.start % group,
        size=kind.kept[0],
        offset=shard.heads.start * kind.values - columns.start,
        scale=kind.scale,
        cap=kind.cap,
        rope=kind.rope,
        window=kind.window,
        cache=cache,
        cache_layer=cache_layer,
        stores=not kind.shared,
        value_norm=kind.value_norm,
        keys_as_values=kind.keys_as_values,
    )


def _logits(b: GraphBuilder) -> None:
    """Logits of the wanted rows: the final norm, then this node's vocabulary shard."""
    spec, shard = b.spec, b.shard
    output = whole(spec, "output", shard.vocab, range(spec.dim))
    b.norm_for("normed", "final_norm", [output.weight_type], tail=True)
    src = b.input("normed", spec.dim, output.weight_type)
    logits = b.buffer("logits", len(shard.vocab), wanted=True)
    b.multiply("matmul", src, logits, output, tail=True)
    if spec.logits_scale != 1.0:
        b.task("scale", logits, logits, tail=True, scale=spec.logits_scale)
    if spec.logits_cap:
        b.task("softcap", logits, logits, tail=True, cap=spec.logits_cap)
