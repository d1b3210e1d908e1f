"""Builds the forward pass of one node as data (dllama.graph.graph)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dllama._kernels.tasks import Kind, Storage, Then
from dllama.errors import UnsupportedError
from dllama.graph.graph import (
    Buffer,
    Graph,
    Heads,
    KVShape,
    Matrix,
    Routing,
    Task,
    TensorSlice,
    Vector,
)
from dllama.graph.shard import Shard, columns_of
from dllama.graph.sum_tree import Summation
from dllama.model.spec import Arch, HiddenAct, ModelSpec
from dllama.model.weight_types import WeightType

# Rows that are packed together (dllama/_kernels/simd/tile.h).
PANEL = 16


def check_supported(spec: ModelSpec, path: object = "model") -> None:
    """UnsupportedError for what a model file can say but no model family is."""
    arch = spec.arch
    mixture = spec.n_experts > 0
    if arch is (Arch.QWEN3 if mixture else Arch.QWEN3_MOE) or (spec.post_norms and not mixture):
        what = f"{arch.name.lower()} with {spec.n_experts} experts"
        what += " and norms after its blocks" if spec.post_norms else ""
        raise UnsupportedError(f"{path}: architecture {what} is not supported")


def build(spec: ModelSpec, shard: Shard) -> Graph:
    """The forward pass of one node: embedding, layers, logits."""
    tasks = [*embedding_tasks(spec, shard)]
    for layer in range(spec.n_layers):
        tasks += attention_tasks(spec, shard, layer)
        feed_forward = expert_tasks if spec.n_experts else feed_forward_tasks
        tasks += feed_forward(spec, shard, layer)
    tasks += logits_tasks(spec)
    return Graph(
        spec,
        shard,
        tuple(buffers(spec, shard)),
        tuple(matrices(spec, shard)),
        tuple(vectors(spec, shard)),
        tuple(tasks),
        KVShape(spec.n_layers, len(shard.kv_heads), spec.head_dim),
        spec.vocab_size,
    )


def quantised(spec: ModelSpec) -> bool:
    """Whether matmuls read Q80 blocks."""
    return spec.weight_type in (WeightType.Q40, WeightType.Q80)


def embedding_tasks(spec: ModelSpec, shard: Shard) -> Iterator[Task]:
    """x = rows of the embedding, which the root has and sends to the others."""
    if shard.rank == 0:
        yield Task("embed", "", "x")
    if shard.world > 1:
        yield Task("broadcast", "x", "x", kind=Kind.TRANSFER)
    if spec.embedding_scale != 1.0:  # behind the broadcast, which sends rows as the file has them
        yield Task("scale", "x", "x", scale=spec.embedding_scale)


def residual_tasks(
    shard: Shard,
    product: Task | None,
    sums: Summation,
    partial: str,
    layer: int,
    norm: str = "",
    epsilon: float = 0.0,
) -> Iterator[Task]:
    """x += the sum over all nodes of a product, or with norm its RMSNorm.

    product: what writes this node's sums, None if it has no columns.
    """
    alone = shard.world == 1
    if product:
        dst, then = ("x", Then.ADD) if alone and not norm else (partial, Then.STORE)
        yield replace(product, dst=dst, then=then, sums=sums.segments)
    if not alone:
        dst, then = ("branch", Then.STORE) if norm else ("x", Then.ADD)
        yield Task(
            "all_reduce", partial, dst, layer=layer, then=then, adds=sums.adds, kind=Kind.TRANSFER
        )
    if norm:
        src = partial if alone else "branch"
        yield Task("norm", src, "x", norm, layer, Then.ADD, epsilon=epsilon)


def attention_tasks(spec: ModelSpec, shard: Shard, layer: int) -> Iterator[Task]:
    """x += attention block of x: norm, q/k/v, RoPE, attention, output projection."""
    at = f"layers.{layer}."
    mixed = "mixed_input" if quantised(spec) else "mixed"
    bias = at + "qkv_bias" if spec.qkv_bias else ""
    heads = _heads(spec, shard)
    yield Task("norm", "x", "normed", at + "attention_norm", layer, epsilon=spec.norm_epsilon)
    yield Task("matmul", "normed", "qkv", at + "qkv", layer, bias=bias)
    norm, epsilon = at + "qk_norm" if spec.qk_norms else "", spec.norm_epsilon
    yield Task("rope", "qkv", "qkv", norm, layer, heads=heads, epsilon=epsilon)
    yield Task("attention", "qkv", "mixed", layer=layer, heads=heads)
    if quantised(spec):
        yield Task("encode", "mixed", mixed, layer=layer)
    product = Task("matmul", mixed, "", at + "o", layer)
    norm = at + "attention_post_norm" if spec.post_norms else ""
    yield from residual_tasks(
        shard, product, shard.output_sum, "attention_out", layer, norm, spec.norm_epsilon
    )


def _heads(spec: ModelSpec, shard: Shard) -> Heads:
    """The heads of a node, all layers' alike."""
    group = spec.n_heads // spec.n_kv_heads
    return Heads(
        count=len(shard.heads),
        kv_count=len(shard.kv_heads),
        group=group,
        skipped=shard.heads.start % group,
        size=spec.head_dim,
        offset=shard.heads.start * spec.head_dim - columns_of(spec, shard.heads).start,
        scale=spec.attention_scale or 1.0 / math.sqrt(spec.head_dim),
        cap=spec.attention_cap,
        rope=spec.rope,
    )


def feed_forward_tasks(spec: ModelSpec, shard: Shard, layer: int) -> Iterator[Task]:
    """x += feed-forward network of x: norm, gate and up with their activation, down projection."""
    at, product = f"layers.{layer}.", None
    if shard.hidden:
        yield Task("norm", "x", "normed", at + "ffn_norm", layer, epsilon=spec.norm_epsilon)
        yield Task("matmul", "normed", "hidden", at + "gate_up", layer, _gated(spec))
        product = Task("matmul", "hidden", "", at + "down", layer)
    norm = at + "ffn_post_norm" if spec.post_norms else ""
    yield from residual_tasks(
        shard, product, shard.down_sum, "ffn_out", layer, norm, spec.norm_epsilon
    )


def expert_tasks(spec: ModelSpec, shard: Shard, layer: int) -> Iterator[Task]:
    """x += the experts that the router chooses for each token of x, weighted.

    Tokens are sorted by experts, so that a pass reads the weights of an expert once, and of
    experts that no token takes never. The router is on every node, and chooses the same everywhere.
    """
    at, product = f"layers.{layer}.", None
    if shard.hidden:
        yield Task("norm", "x", "routed", at + "ffn_norm", layer, epsilon=spec.norm_epsilon)
        yield Task("matmul", "routed", "scores", at + "router", layer)
        yield Task("route", "scores", "routes", layer=layer)
        yield Task("dispatch", "routed", "dispatched", layer=layer, routes="routes")
        yield Task(
            "experts_gated", "dispatched", "hidden", at + "experts_gate_up", layer,
            _gated(spec), routes="routes",
        )  # fmt: skip
        product = Task("experts_sum", "hidden", "", at + "experts_down", layer, routes="routes")
    norm = at + "ffn_post_norm" if spec.post_norms else ""
    yield from residual_tasks(
        shard, product, shard.down_sum, "ffn_out", layer, norm, spec.norm_epsilon
    )


def logits_tasks(spec: ModelSpec) -> Iterator[Task]:
    """Logits of the rows that are asked for: final norm, this node's rows of the output matrix."""
    last = spec.n_layers - 1
    epsilon = spec.norm_epsilon
    yield Task("norm", "x", "normed", "final_norm", last, tail=True, epsilon=epsilon)
    yield Task("matmul", "normed", "logits", "output", last, tail=True)
    if spec.logits_scale != 1.0:
        yield Task("scale", "logits", "logits", "", last, tail=True, scale=spec.logits_scale)


def _gated(spec: ModelSpec) -> Then:
    return Then.GATED_GELU if spec.hidden_act is HiddenAct.GELU else Then.GATED


def _input(spec: ModelSpec) -> Storage:
    """How the rows that a matmul reads are held."""
    return Storage.Q80 if quantised(spec) else Storage.FLOAT


def buffers(spec: ModelSpec, shard: Shard) -> Iterator[Buffer]:
    """The buffers that the tasks above name."""
    columns = len(columns_of(spec, shard.heads))
    yield Buffer("x", spec.dim)
    yield Buffer("normed", spec.dim, _input(spec))
    yield Buffer("logits", len(shard.vocab), wanted=True)
    yield Buffer("qkv", (len(shard.heads) + 2 * len(shard.kv_heads)) * spec.head_dim)
    yield Buffer("mixed", columns)
    if quantised(spec):
        yield Buffer("mixed_input", columns, _input(spec))
    if spec.n_experts and shard.hidden:
        yield from _expert_buffers(spec, shard)
    elif shard.hidden:
        yield Buffer("hidden", len(shard.hidden), _input(spec))
    if shard.world > 1 or spec.post_norms:
        yield Buffer("attention_out", spec.dim, rows=max(1, len(shard.output_sum.adds[shard.rank])))
        yield Buffer("ffn_out", spec.dim, rows=max(1, len(shard.down_sum.adds[shard.rank])))
    if shard.world > 1 and spec.post_norms:
        yield Buffer("branch", spec.dim)


def _expert_buffers(spec: ModelSpec, shard: Shard) -> Iterator[Buffer]:
    """Rows for each token and each of its experts."""
    taken = spec.n_active_experts
    yield Buffer("routed", spec.dim)
    yield Buffer("scores", spec.n_experts)
    routing = Routing(spec.n_experts, taken, spec.topk_normalised)
    yield Buffer("routes", taken, Storage.ROUTES, routing=routing)
    yield Buffer("dispatched", spec.dim, _input(spec), taken)
    yield Buffer("hidden", len(shard.hidden), _input(spec), taken)


def matrices(spec: ModelSpec, shard: Shard) -> Iterator[Matrix]:
    """The matrices that the tasks above name."""
    for layer in range(spec.n_layers):
        at = f"layers.{layer}."
        yield _qkv(spec, shard, at)
        cols = columns_of(spec, shard.heads)
        held = TensorSlice(at + "o", range(spec.dim), cols)
        yield Matrix(at + "o", spec.dim, len(cols), (held,), spec.weight_type)
        if spec.n_experts and shard.hidden:
            yield from _expert_matrices(spec, shard, at)
        elif shard.hidden:
            yield _gated_matrix(spec, shard, at + "gate_up", [at])
            held = TensorSlice(at + "down", range(spec.dim), shard.hidden)
            yield Matrix(at + "down", spec.dim, len(shard.hidden), (held,), spec.weight_type)
    held = TensorSlice("output", shard.vocab, range(spec.dim))
    yield Matrix("output", len(shard.vocab), spec.dim, (held,), spec.weight_type)


def _qkv(spec: ModelSpec, shard: Shard, at: str) -> Matrix:
    """Rows of q, k and v, one below the other."""
    q, kv = (_rows(heads, spec.head_dim) for heads in (shard.heads, shard.kv_heads))
    cols = range(spec.dim)
    slices = (
        TensorSlice(at + "q", q, cols),
        TensorSlice(at + "k", kv, cols, len(q)),
        TensorSlice(at + "v", kv, cols, len(q) + len(kv)),
    )
    return Matrix(at + "qkv", len(q) + 2 * len(kv), spec.dim, slices, spec.weight_type)


def _rows(heads: range, size: int) -> range:
    return range(heads.start * size, heads.stop * size)


def _gated_matrix(spec: ModelSpec, shard: Shard, name: str, prefixes: list[str]) -> Matrix:
    """Gate and up in alternating blocks of 32 rows, so that the activation finds both side by
    side; those of experts one below the other."""
    rows, cols = 64 * ((len(shard.hidden) + 31) // 32), range(spec.dim)
    slices = [
        TensorSlice(prefix + tensor, shard.hidden, cols, index * rows + at, 32, 64)
        for index, prefix in enumerate(prefixes)
        for at, tensor in ((0, "gate"), (32, "up"))
    ]
    return Matrix(name, len(prefixes) * rows, spec.dim, tuple(slices), spec.weight_type)


def _expert_matrices(spec: ModelSpec, shard: Shard, at: str) -> Iterator[Matrix]:
    """The router, and gate, up and down of all experts."""
    prefixes = [f"{at}experts.{expert}." for expert in range(spec.n_experts)]
    router = TensorSlice(at + "router", range(spec.n_experts), range(spec.dim))
    yield Matrix(at + "router", spec.n_experts, spec.dim, (router,), WeightType.F32)
    yield _gated_matrix(spec, shard, at + "experts_gate_up", prefixes)
    yield _down_of_experts(spec, shard, at + "experts_down", prefixes)


def _down_of_experts(spec: ModelSpec, shard: Shard, name: str, prefixes: list[str]) -> Matrix:
    """Down projections one below the other, each filled up to whole panels of rows."""
    rows = PANEL * -(-spec.dim // PANEL)
    slices = [
        TensorSlice(prefix + "down", range(spec.dim), shard.hidden, index * rows)
        for index, prefix in enumerate(prefixes)
    ]
    return Matrix(name, len(prefixes) * rows, len(shard.hidden), tuple(slices), spec.weight_type)


def vectors(spec: ModelSpec, shard: Shard) -> Iterator[Vector]:
    """The norm weights and biases that the tasks above name."""
    norms = ["attention_norm", "ffn_norm"]
    if spec.post_norms:
        norms += ["attention_post_norm", "ffn_post_norm"]
    for layer in range(spec.n_layers):
        at = f"layers.{layer}."
        for norm in norms:
            yield _whole(at + norm, spec.dim)
        if spec.qk_norms:
            parts = ((at + name, range(spec.head_dim)) for name in ("q_norm", "k_norm"))
            yield _vector(at + "qk_norm", *parts)
        if spec.qkv_bias:
            yield _bias(spec, shard, at)
    yield _whole("final_norm", spec.dim)


def _vector(name: str, *parts: tuple[str, range]) -> Vector:
    """A vector of some numbers of each tensor, one after another."""
    slices: list[TensorSlice] = []
    at = 0
    for tensor, numbers in parts:
        slices.append(TensorSlice(tensor, range(1), numbers, at))
        at += len(numbers)
    return Vector(name, tuple(slices))


def _whole(name: str, size: int) -> Vector:
    return _vector(name, (name, range(size)))


def _bias(spec: ModelSpec, shard: Shard, at: str) -> Vector:
    """Biases of the rows of q, k and v that a node has."""
    q, kv = (_rows(heads, spec.head_dim) for heads in (shard.heads, shard.kv_heads))
    return _vector(at + "qkv_bias", (at + "q_bias", q), (at + "k_bias", kv), (at + "v_bias", kv))
