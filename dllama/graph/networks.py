"""Adds the second block of a layer to a graph: a feed-forward network, experts, or both."""

from __future__ import annotations

from dataclasses import replace

from dllama._kernels.tasks import Storage, Then
from dllama.graph.builder import GraphBuilder
from dllama.graph.graph import Routing, SharedExpert
from dllama.graph.matrices import down_of_experts, gated, gated_width, whole
from dllama.graph.residual import Product, add_bias, add_to_x, total
from dllama.graph.sum_tree import Segment, Summation
from dllama.model.spec import HiddenAct, ModelSpec
from dllama.model.tensors import expert_prefixes
from dllama.model.weight_types import WeightType

ACTIVATIONS = {
    HiddenAct.SILU: Then.GATED,
    HiddenAct.GELU: Then.GATED_GELU,
    HiddenAct.CLAMPED: Then.GATED_CLAMPED,
}
UNGATED = {HiddenAct.SILU: Then.SILU, HiddenAct.GELU: Then.GELU}
# The buffer with the experts of each row.
ROUTES = "routes"


def feed_forward(b: GraphBuilder) -> None:
    """x += feed-forward network of the norm of x."""
    bias = add_bias(b, b.at + "down_bias") if b.features.biases else None
    add_to_x(b, *_network(b), "ffn", bias)


def _network(b: GraphBuilder) -> tuple[Product | None, Summation]:
    """The down projection of the feed-forward network of the norm of x, as add_to_x takes it."""
    spec, at, biases = b.spec, b.at, b.features.biases
    (network,) = b.shard.networks[b.features.dense]
    if not network.hidden:
        return None, network.down_sum
    if not b.features.parallel:  # else attention has normalised x
        norm = at + "ffn_norm" if b.features.norms_before else ""
        b.norm_for("normed", norm, types_of_units(b))
    down = whole(spec, at + "down", range(spec.dim), network.hidden)
    hidden = b.input(_wide(b, "hidden"), len(network.hidden), down.weight_type)
    _hidden_units(b, network.hidden, "normed", hidden, biases=biases)

    def project(dst: str, then: Then, sums: tuple[Segment, ...]) -> None:
        b.multiply("matmul", hidden, dst, down, then=then, sums=sums)

    return project, network.down_sum


def _wide(b: GraphBuilder, name: str) -> str:
    """The name of a buffer whose width depends on that of the feed-forward network of the layer."""
    shared = b.features.attention.shared and b.spec.kv_shared_hidden_dim
    return f"wide_{name}" if shared else name


def experts_beside(b: GraphBuilder) -> None:
    """x += the norm of a sum: the norm of a feed-forward network, and that of experts."""
    both = b.buffer("both", b.spec.dim)
    b.norm(total(b, *_network(b), "ffn"), both, b.at + "dense_post_norm")
    mixture = total(b, *_mixture(b), "experts")
    b.norm(mixture, both, b.at + "experts_post_norm", then=Then.ADD)
    b.norm(both, "x", b.at + "ffn_post_norm", then=Then.ADD)


def types_of_units(b: GraphBuilder) -> list[WeightType]:
    """Types of the matrices that read the input of the layer's feed-forward network."""
    names = ("gate", "up") if b.features.gated else ("up",)
    return [b.spec.type_of(b.at + name) for name in names]


def _hidden_units(
    b: GraphBuilder, held: range, src: str, dst: str, part: str = "", biases: bool = False
) -> None:
    """dst = the activation of gate and up, or of up alone, of a feed-forward network times src.

    Args:
        b: the graph.
        held: hidden units of the node.
        src: the buffer for float32, as in GraphBuilder.input.
        dst: the buffer of the hidden units.
        part: the network, if it is not that of a layer without experts: a prefix of names.
        biases: whether gate and up have biases.
    """
    if not b.features.gated:
        _ungated_units(b, held, src, dst, biases)
        return
    prefix = b.at + part.replace("_", ".")
    apart = biases or _apart(b.spec)
    matrices = gated(b.spec, held, b.at + part, [prefix], apart=apart)
    sources = [b.input(src, b.spec.dim, matrix.weight_type) for matrix in matrices]
    if len(matrices) == 1:
        b.multiply("matmul", sources[0], dst, matrices[0], then=activation_of(b.spec))
        return
    width = gated_width(held)
    both = b.buffer(_wide(b, f"{part}gate_up"), 2 * width)
    for one, matrix, column in zip(sources, matrices, (0, width), strict=True):
        name = matrix.name + "_bias"
        bias = b.vector(name, (name, held), least=width) if biases else ""
        b.multiply("matmul", one, both, matrix, column=column, bias=bias)
    b.task("activate", both, dst, then=activation_of(b.spec), scale=b.spec.act_limit)


def _ungated_units(b: GraphBuilder, held: range, src: str, dst: str, biases: bool) -> None:
    """dst = the activation of up times src; the arguments are those of _hidden_units."""
    name = b.at + "up"
    up = whole(b.spec, name, held, range(b.spec.dim))
    bias = b.vector(name + "_bias", (name + "_bias", held)) if biases else ""
    products = b.buffer("up", len(held))
    b.multiply("matmul", b.input(src, b.spec.dim, up.weight_type), products, up, bias=bias)
    b.task("activate", products, dst, then=UNGATED[b.spec.hidden_act])


def experts(b: GraphBuilder) -> None:
    """x += weighted sum of the experts that the router chooses for each row of the norm of x."""

    def add(dst: str) -> None:
        prefixes = expert_prefixes(b.spec, b.at)
        pieces = ((prefix + "down_bias", range(b.spec.dim)) for prefix in prefixes)
        weight = b.vector(b.at + "experts_down_bias", *pieces)
        b.task("experts_add", dst, dst, weight=weight, routes=ROUTES)

    add_to_x(b, *_mixture(b), "ffn", add if b.features.biases else None, parts="experts")


def _mixture(b: GraphBuilder) -> tuple[Product | None, Summation]:
    """The weighted sum of the down projections of experts, as add_to_x takes it.

    An expert that all rows take is added to the same sums, if the model has one.

    Rows are sorted by expert, so that a pass reads the weights of each chosen expert once and
    those of the others never. Every node has the router and makes the same choice.
    """
    at, biases = b.at, b.features.biases
    networks = b.shard.networks[b.features.widths]
    taken, *others = (network.hidden for network in networks)
    shared = others[0] if others else range(0)
    sums = networks[0].down_sum
    if not (taken or shared or biases):
        return None, sums
    beside = b.features.beside
    b.norm("x", b.buffer("routed", b.spec.dim), at + ("experts_norm" if beside else "ffn_norm"))
    readers = ["router"] if not beside and (taken or biases) else []
    readers += ["shared.gate", "shared.up"] if shared else []
    readers += ["shared_gate"] if shared and b.spec.shared_gate else []
    if any(b.spec.type_of(at + name).quantised for name in readers):
        b.encode("routed", b.spec.dim)
    routes = _route(b) if taken or biases else ""
    hidden, down = _taken_experts(b, taken, routes) if taken else ("", "")
    added = _shared_expert(b, shared) if shared else None

    def project(dst: str, then: Then, segments: tuple[Segment, ...]) -> None:
        fields = {"weight": down, "routes": routes, "shared": added}
        b.task("experts_sum", hidden, dst, then=then, sums=segments, **fields)

    return project if taken or shared else None, sums


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
    act = activation_of(spec)
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
    src, scales = "routed", ""
    if b.features.beside:
        src, name = "router_input", at + "expert_scales"
        b.norm("x", b.buffer(src, spec.dim), at + "router_norm")
        if router.weight_type.quantised:
            b.encode(src, spec.dim)
        scales = b.vector(name, (name, range(spec.n_experts)))
    src = b.input(src, spec.dim, router.weight_type)
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
    routes = b.buffer(ROUTES, spec.n_active_experts, Storage.ROUTES, routing=routing)
    name = at + "router_correction"
    correction = b.vector(name, (name, range(spec.n_experts))) if spec.router_correction else ""
    b.task("route", scores, routes, weight=correction, scales=scales)
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


def activation_of(spec: ModelSpec) -> Then:
    return ACTIVATIONS[spec.hidden_act]


def _apart(spec: ModelSpec) -> bool:
    """Whether the activation does not follow the product of gate and up at once."""
    return spec.hidden_act is HiddenAct.CLAMPED
