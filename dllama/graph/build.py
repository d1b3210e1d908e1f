"""Builds the forward pass of one node from the spec of a model.

One builder serves all families. A layer is two blocks: attention, then a feed-forward network or
experts. Each block ends in a sum over all nodes. Each function here adds the tasks of one section
of the pass to a GraphBuilder, with the buffers, matrices and vectors that they use. So the code of
a feature is in one place. x is the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dllama._kernels.tasks import Storage, Then
from dllama.errors import UnsupportedError
from dllama.graph.builder import GraphBuilder
from dllama.graph.graph import Graph, Heads, Routing, SharedExpert
from dllama.graph.latents import mix_latents
from dllama.graph.linear_attention import linear_attention
from dllama.graph.matrices import (
    down_of_experts,
    gated,
    gated_width,
    numbers_of,
    projections,
    whole,
)
from dllama.graph.residual import add_to_x
from dllama.graph.shard import Shard, columns_of
from dllama.graph.sum_tree import Segment
from dllama.model.spec import Arch, HiddenAct, ModelSpec, QKNorm
from dllama.model.tensors import expert_prefixes

ACTIVATIONS = {
    HiddenAct.SILU: Then.GATED,
    HiddenAct.GELU: Then.GATED_GELU,
    HiddenAct.CLAMPED: Then.GATED_CLAMPED,
}


def check_supported(spec: ModelSpec, path: object = "model") -> None:
    """UnsupportedError for combinations that a header can express but no model family has."""
    arch = spec.arch
    mixture = spec.n_experts > 0
    if arch is (Arch.QWEN3 if mixture else Arch.QWEN3_MOE):
        what = f"{arch.name.lower()} with {spec.n_experts} experts"
        raise UnsupportedError(f"{path}: architecture {what} is not supported")
    if spec.shared_hidden_dim and spec.ffn_bias:
        raise UnsupportedError(f"{path}: a shared expert with biases is not supported")
    if mixture and not spec.pre_norms:
        raise UnsupportedError(f"{path}: experts without a norm before them are not supported")


def build(spec: ModelSpec, shard: Shard) -> Graph:
    """The forward pass of one node: embedding, layers, logits."""
    b = GraphBuilder(spec, shard)
    _embedding(b)
    for layer in range(spec.n_layers):
        b.layer = layer
        if b.features.linear:
            linear_attention(b)
        else:
            _attention(b)
        if b.features.experts:
            _experts(b)
        else:
            _feed_forward(b)
    _logits(b)
    return b.graph()


def _embedding(b: GraphBuilder) -> None:
    """x = rows of the embedding. Only the root has it, so it sends the rows to the others."""
    x = b.buffer("x", b.spec.dim)
    if b.shard.rank == 0:
        b.task("embed", "", x)
    if b.shard.world_size > 1:
        b.transfer("broadcast", x, x)
    # The broadcast comes first: rows as stored may fit into 16 bits, scaled ones do not.
    if b.spec.embedding_scale != 1.0:
        b.task("scale", x, x, scale=b.spec.embedding_scale)


def _attention(b: GraphBuilder) -> None:
    """x += attention of the norm of x."""
    spec, shard, at = b.spec, b.shard, b.at
    kind, heads, columns = b.features.attention, _heads(b), columns_of(spec, shard.heads)
    mix = mix_latents if spec.kv_latent_dim else _mix
    mix(b, heads, b.buffer("mixed", len(columns)))
    o = whole(spec, at + "o", range(spec.dim), columns)
    if o.weight_type.quantised:
        b.encode("mixed", len(columns))
    mixed = b.input("mixed", len(columns), o.weight_type)

    def project(dst: str, then: Then, sums: tuple[Segment, ...]) -> None:
        b.multiply("matmul", mixed, dst, o, then=then, sums=sums)

    add = _bias(b, at + "o_bias") if kind.o_bias else None
    add_to_x(b, project, shard.output_sum, "attention", add)


def _mix(b: GraphBuilder, heads: Heads, dst: str) -> None:
    """dst = the values of each head, mixed by attention to the norm of x."""
    spec, shard, at, kind = b.spec, b.shard, b.at, b.features.attention
    matrices = [*projections(spec, shard, at)]
    norm = at + "attention_norm" if b.features.norms_before else ""
    b.norm_for("normed", norm, [matrix.weight_type for matrix, _ in matrices])
    gate = (heads.count + 2 * heads.kv_count) * heads.size
    qkv = b.buffer("qkv", gate + kind.gate * heads.count * heads.size)
    for matrix, column in matrices:
        biases = ((piece.tensor + "_bias", piece.rows) for piece in matrix.slices)
        bias = b.vector(matrix.name + "_bias", *biases) if kind.biases else ""
        src = b.input("normed", spec.dim, matrix.weight_type)
        b.multiply("matmul", src, qkv, matrix, column=column, bias=bias)
    norms = _head_norms(b, qkv, heads)
    constant = ""
    if kind.biases and not kind.cap and not norms:  # else scores would change
        rows = numbers_of(shard.kv_heads, heads.size)
        constant = b.vector(at + "k_bias", (at + "k_bias", rows))
    b.task("rope", qkv, qkv, heads=heads, epsilon=spec.norm_epsilon, bias=constant, **norms)
    sinks = b.vector(at + "sinks", (at + "sinks", shard.heads)) if kind.sinks else ""
    b.task("attention", qkv, dst, weight=sinks, heads=heads)
    if kind.gate:
        b.task("gate", qkv, dst, heads=heads, column=gate)


def _head_norms(b: GraphBuilder, qkv: str, heads: Heads) -> dict[str, str]:
    """The norms of q and k, as fields of the rope task that applies them.

    A norm over all heads needs the squares of those of other nodes, too.
    """
    spec, shard, at, kind = b.spec, b.shard, b.at, b.features.attention
    names = ("q_norm", "k_norm")
    if kind.norm is QKNorm.NONE:
        return {}
    if kind.norm is QKNorm.HEAD:
        return {"weight": b.vector(at + "qk_norm", *((at + n, range(heads.size)) for n in names))}
    squares = b.buffer("head_squares", spec.n_heads + spec.n_kv_heads)
    b.task("head_squares", qkv, squares, heads=heads)
    if shard.world_size > 1:
        b.transfer("gather", squares, squares, held=shard.held_heads(spec.n_heads))
    parts = zip(names, (shard.heads, shard.kv_heads), strict=True)
    weights = ((at + name, numbers_of(held, heads.size)) for name, held in parts)
    return {"weight": b.vector(at + "qk_norm", *weights), "squares": squares}


def _heads(b: GraphBuilder) -> Heads:
    """The heads of a node and how they attend in a layer."""
    spec, shard, kind = b.spec, b.shard, b.features.attention
    group = spec.n_heads // spec.n_kv_heads
    cache, cache_layer = b.cache
    return Heads(
        count=len(shard.heads),
        first=shard.heads.start,
        kv_count=len(shard.kv_heads),
        first_kv=shard.kv_heads.start,
        all=spec.n_heads,
        group=group,
        skipped=shard.heads.start % group,
        size=spec.kept_dims[0],
        offset=shard.heads.start * spec.o_head - columns_of(spec, shard.heads).start,
        scale=kind.scale,
        cap=kind.cap,
        rope=kind.rope,
        window=kind.window,
        cache=cache,
        cache_layer=cache_layer,
    )


def _feed_forward(b: GraphBuilder) -> None:
    """x += feed-forward network of the norm of x."""
    spec, at, biases = b.spec, b.at, b.features.biases
    (network,) = b.shard.networks[b.features.widths]
    bias = _bias(b, at + "down_bias") if biases else None
    if not network.hidden:
        add_to_x(b, None, network.down_sum, "ffn", bias)
        return
    norm = at + "ffn_norm" if b.features.norms_before else ""
    b.norm_for("normed", norm, [spec.type_of(at + name) for name in ("gate", "up")])
    down = whole(spec, at + "down", range(spec.dim), network.hidden)
    hidden = b.input("hidden", len(network.hidden), down.weight_type)
    _hidden_units(b, network.hidden, "normed", hidden, biases=biases)

    def project(dst: str, then: Then, sums: tuple[Segment, ...]) -> None:
        b.multiply("matmul", hidden, dst, down, then=then, sums=sums)

    add_to_x(b, project, network.down_sum, "ffn", bias)


def _hidden_units(
    b: GraphBuilder, held: range, src: str, dst: str, part: str = "", biases: bool = False
) -> None:
    """dst = the activation of gate and up of a feed-forward network times src.

    Args:
        b: the graph.
        held: hidden units of the node.
        src: the buffer for float32, as in GraphBuilder.input.
        dst: the buffer of the hidden units.
        part: the network, if it is not that of a layer without experts: a prefix of names.
        biases: whether gate and up have biases.
    """
    prefix = b.at + part.replace("_", ".")
    apart = biases or _apart(b.spec)
    matrices = gated(b.spec, held, b.at + part, [prefix], apart=apart)
    sources = [b.input(src, b.spec.dim, matrix.weight_type) for matrix in matrices]
    if len(matrices) == 1:
        b.multiply("matmul", sources[0], dst, matrices[0], then=_activation(b.spec))
        return
    width = gated_width(held)
    both = b.buffer(f"{part}gate_up", 2 * width)
    for one, matrix, column in zip(sources, matrices, (0, width), strict=True):
        name = matrix.name + "_bias"
        bias = b.vector(name, (name, held), least=width) if biases else ""
        b.multiply("matmul", one, both, matrix, column=column, bias=bias)
    b.task("activate", both, dst, then=_activation(b.spec), scale=b.spec.act_limit)


def _experts(b: GraphBuilder) -> None:
    """x += weighted sum of the experts that the router chooses for each row of the norm of x.

    An expert that all rows take is added to the same sums, if the model has one.

    Rows are sorted by expert, so that a pass reads the weights of each chosen expert once and
    those of the others never. Every node has the router and makes the same choice.
    """
    at, biases = b.at, b.features.biases
    networks = b.shard.networks[b.features.widths]
    experts, *others = (network.hidden for network in networks)
    shared = others[0] if others else range(0)
    sums = networks[0].down_sum
    if not (experts or shared or biases):
        add_to_x(b, None, sums, "ffn", parts="experts")
        return
    b.norm("x", b.buffer("routed", b.spec.dim), at + "ffn_norm")
    readers = ["router"] if experts or biases else []
    readers += ["shared.gate", "shared.up"] if shared else []
    readers += ["shared_gate"] if shared and b.spec.shared_gate else []
    if any(b.spec.type_of(at + name).quantised for name in readers):
        b.encode("routed", b.spec.dim)
    routes = _route(b) if experts or biases else ""
    hidden, down = _taken_experts(b, experts, routes) if experts else ("", "")
    added = _shared_expert(b, shared) if shared else None

    def project(dst: str, then: Then, segments: tuple[Segment, ...]) -> None:
        fields = {"weight": down, "routes": routes, "shared": added}
        b.task("experts_sum", hidden, dst, then=then, sums=segments, **fields)

    def add(dst: str) -> None:
        prefixes = expert_prefixes(b.spec, at)
        pieces = ((prefix + "down_bias", range(b.spec.dim)) for prefix in prefixes)
        weight = b.vector(at + "experts_down_bias", *pieces)
        b.task("experts_add", dst, dst, weight=weight, routes=routes)

    product = project if experts or shared else None
    add_to_x(b, product, sums, "ffn", add if biases else None, parts="experts")


def _taken_experts(b: GraphBuilder, held: range, routes: str) -> tuple[str, str]:
    """The buffer of the hidden units of each entry, and the matrix of down projections."""
    spec, at, taken, biases = b.spec, b.at, b.spec.n_active_experts, b.features.biases
    prefixes, apart = expert_prefixes(spec, at), biases or _apart(spec)
    matrices = gated(spec, held, at + "experts_", prefixes, apart=apart)
    down = down_of_experts(spec, held, at + "experts_down", prefixes)
    sources = [b.input("dispatched", spec.dim, one.weight_type, taken) for one in matrices]
    for src in sorted(set(sources)):
        b.task("dispatch", "routed", src, routes=routes)
    hidden = b.input("expert_hidden", len(held), down.weight_type, taken)
    act = _activation(spec)
    if len(matrices) == 1:
        b.multiply("experts_gated", sources[0], hidden, matrices[0], then=act, routes=routes)
        return hidden, b.matrix(down)
    width = gated_width(held)
    both = b.buffer("expert_gate_up", 2 * width, rows=taken)
    for src, matrix, column in zip(sources, matrices, (0, width), strict=True):
        bias = ""
        if biases:
            name = matrix.name.removeprefix(at + "experts_") + "_bias"
            pieces = ((prefix + name, held) for prefix in prefixes)
            size = width * spec.n_experts
            bias = b.vector(matrix.name + "_bias", *pieces, least=size, stride=width)
        b.multiply("experts_gated", src, both, matrix, column=column, bias=bias, routes=routes)
    b.task("experts_activate", both, hidden, then=act, routes=routes, scale=spec.act_limit)
    return hidden, b.matrix(down)


def _route(b: GraphBuilder) -> str:
    """The buffer with the experts of each row."""
    spec, at = b.spec, b.at
    router = whole(spec, at + "router", range(spec.n_experts), range(spec.dim))
    scores = b.buffer("scores", spec.n_experts)
    name = at + "router_bias"
    bias = b.vector(name, (name, range(spec.n_experts))) if b.features.biases else ""
    src = b.input("routed", spec.dim, router.weight_type)
    b.multiply("matmul", src, scores, router, bias=bias)
    routing = Routing(
        spec.n_experts,
        spec.n_active_experts,
        spec.topk_normalised,
        sigmoid=spec.router_sigmoid,
        scale=spec.expert_scale,
    )
    if spec.expert_groups:
        groups = spec.expert_groups, spec.expert_groups_taken, spec.expert_group_best
        routing = replace(routing, groups=groups[0], groups_taken=groups[1], group_best=groups[2])
    routes = b.buffer("routes", spec.n_active_experts, Storage.ROUTES, routing=routing)
    name = at + "router_correction"
    correction = b.vector(name, (name, range(spec.n_experts))) if spec.router_correction else ""
    b.task("route", scores, routes, weight=correction)
    return routes


def _shared_expert(b: GraphBuilder, held: range) -> SharedExpert:
    """The expert that all rows take: its hidden units, and the factors of its result."""
    spec, at, factors = b.spec, b.at, ""
    if spec.shared_gate:
        gate = whole(spec, at + "shared_gate", range(1), range(spec.dim))
        factors = b.buffer("shared_factors", 1)
        b.multiply("matmul", b.input("routed", spec.dim, gate.weight_type), factors, gate)
        b.task("sigmoid", factors, factors)
    down = whole(spec, at + "shared.down", range(spec.dim), held)
    hidden = b.input("shared_hidden", len(held), down.weight_type)
    _hidden_units(b, held, "routed", hidden, "shared_")
    sums = b.shard.networks[b.features.widths][1].down_sum.segments
    return SharedExpert(hidden, b.matrix(down), factors, sums)


def _activation(spec: ModelSpec) -> Then:
    return ACTIVATIONS[spec.hidden_act]


def _apart(spec: ModelSpec) -> bool:
    """Whether the activation does not follow the product of gate and up at once."""
    return spec.hidden_act is HiddenAct.CLAMPED


def _bias(b: GraphBuilder, name: str) -> Callable[[str], None]:
    """A function that adds the task that adds a vector to a buffer."""

    def add(dst: str) -> None:
        b.task("add", dst, dst, weight=b.vector(name, (name, range(b.spec.dim))))

    return add


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
