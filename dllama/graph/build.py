"""Builds the forward pass of one node as data (dllama.graph.graph)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from dllama._kernels.tasks import Kind, Storage, Then
from dllama.errors import UnsupportedError
from dllama.graph.graph import Buffer, Graph, Heads, KVShape, Routing, Task
from dllama.graph.matrices import fused, gated_width, matrices, projections, vectors
from dllama.graph.shard import Shard, columns_of
from dllama.graph.sum_tree import Summation
from dllama.model.spec import Arch, HiddenAct, ModelSpec
from dllama.model.weight_types import WeightType


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
        tuple(buffers(spec, shard, tasks)),
        tuple(matrices(spec, shard)),
        tuple(vectors(spec, shard)),
        tuple(tasks),
        KVShape(spec.n_layers, len(shard.kv_heads), spec.head_dim),
        spec.vocab_size,
    )


def _input(rows: str, kind: WeightType) -> str:
    """The buffer that has rows as matrices of a weight type read them."""
    return f"{rows}_q80" if kind.quantised else rows


def norm_tasks(norm: Task, kinds: list[WeightType]) -> Iterator[Task]:
    """A norm whose dst has its rows in each form that matrices of these types read."""
    buffers = {_input(norm.dst, kind) for kind in kinds}
    if len(buffers) == 1:
        yield replace(norm, dst=buffers.pop())
    else:
        yield norm
        yield _encode(norm.dst, norm.layer)


def _encode(rows: str, layer: int) -> Task:
    return Task("encode", rows, f"{rows}_q80", layer=layer)


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
    heads, parts = _heads(spec, shard), [*projections(spec, shard, at)]
    normed = Task("norm", "x", "normed", at + "attention_norm", layer, epsilon=spec.norm_epsilon)
    yield from norm_tasks(normed, [matrix.weight_type for matrix, _ in parts])
    for matrix, column in parts:
        src, bias = _input("normed", matrix.weight_type), spec.qkv_bias and matrix.name + "_bias"
        yield Task("matmul", src, "qkv", matrix.name, layer, column=column, bias=bias or "")
    norm, epsilon = at + "qk_norm" if spec.qk_norms else "", spec.norm_epsilon
    yield Task("rope", "qkv", "qkv", norm, layer, heads=heads, epsilon=epsilon)
    yield Task("attention", "qkv", "mixed", layer=layer, heads=heads)
    kind = spec.type_of(at + "o")
    if kind.quantised:
        yield _encode("mixed", layer)
    product = Task("matmul", _input("mixed", kind), "", at + "o", layer)
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
        normed = Task("norm", "x", "normed", at + "ffn_norm", layer, epsilon=spec.norm_epsilon)
        gate, up, hidden = _gate_up_hidden(spec, at)
        yield from norm_tasks(normed, [gate, up])
        task = Task("matmul", _input("normed", gate), hidden, at + "gate_up", layer, _gated(spec))
        yield from _gated_tasks(spec, shard, at, task, _input("normed", up), "activate")
        product = Task("matmul", hidden, "", at + "down", layer)
    norm = at + "ffn_post_norm" if spec.post_norms else ""
    yield from residual_tasks(
        shard, product, shard.down_sum, "ffn_out", layer, norm, spec.norm_epsilon
    )


def _gate_up_hidden(spec: ModelSpec, prefix: str) -> tuple[WeightType, WeightType, str]:
    """The types of gate and up, and the buffer that feeds down."""
    gate, up, down = (spec.type_of(prefix + name) for name in ("gate", "up", "down"))
    return gate, up, _input("hidden", down)


def _gated_tasks(
    spec: ModelSpec, shard: Shard, prefix: str, task: Task, up_src: str, activate: str
) -> Iterator[Task]:
    """Gate and up with their activation: `task`, or in parts where their types differ."""
    if fused(spec, prefix):
        yield task
        return
    name, store = task.weight.removesuffix("gate_up"), replace(task, dst="gate_up", then=Then.STORE)
    yield replace(store, weight=name + "gate")
    up = replace(store, src=up_src, weight=name + "up")
    yield replace(up, column=gated_width(shard))
    yield replace(task, op=activate, src="gate_up", weight="")


def expert_tasks(spec: ModelSpec, shard: Shard, layer: int) -> Iterator[Task]:
    """x += the experts that the router chooses for each token of x, weighted.

    Tokens are sorted by experts, so that a pass reads the weights of an expert once, and of
    experts that no token takes never. The router is on every node, and chooses the same everywhere.
    """
    at, product = f"layers.{layer}.", None
    if shard.hidden:
        prefix = at + "experts."
        gate, up, hidden = _gate_up_hidden(spec, prefix)
        router = spec.type_of(at + "router")
        yield Task("norm", "x", "routed", at + "ffn_norm", layer, epsilon=spec.norm_epsilon)
        if router.quantised:
            yield _encode("routed", layer)
        yield Task("matmul", _input("routed", router), "scores", at + "router", layer)
        yield Task("route", "scores", "routes", layer=layer)
        for dst in sorted({_input("dispatched", kind) for kind in (gate, up)}):
            yield Task("dispatch", "routed", dst, layer=layer, routes="routes")
        task = Task(
            "experts_gated", _input("dispatched", gate), hidden, at + "experts_gate_up", layer,
            _gated(spec), routes="routes",
        )  # fmt: skip
        src = _input("dispatched", up)
        yield from _gated_tasks(spec, shard, prefix, task, src, "experts_activate")
        product = Task("experts_sum", hidden, "", at + "experts_down", layer, routes="routes")
    norm = at + "ffn_post_norm" if spec.post_norms else ""
    yield from residual_tasks(
        shard, product, shard.down_sum, "ffn_out", layer, norm, spec.norm_epsilon
    )


def logits_tasks(spec: ModelSpec) -> Iterator[Task]:
    """Logits of the rows that are asked for: final norm, this node's rows of the output matrix."""
    last = spec.n_layers - 1
    epsilon, normed = spec.norm_epsilon, _input("normed", spec.type_of("output"))
    yield Task("norm", "x", normed, "final_norm", last, tail=True, epsilon=epsilon)
    yield Task("matmul", normed, "logits", "output", last, tail=True)
    if spec.logits_scale != 1.0:
        yield Task("scale", "logits", "logits", "", last, tail=True, scale=spec.logits_scale)


def _gated(spec: ModelSpec) -> Then:
    return Then.GATED_GELU if spec.hidden_act is HiddenAct.GELU else Then.GATED


def buffers(spec: ModelSpec, shard: Shard, tasks: Iterable[Task]) -> Iterator[Buffer]:
    """The buffers that tasks name."""
    named = {name for task in tasks for name in (task.src, task.dst, task.routes)}
    for buffer in _buffers(spec, shard):
        if buffer.name in named:
            yield buffer


def _buffers(spec: ModelSpec, shard: Shard) -> Iterator[Buffer]:
    """All buffers that tasks may name."""
    yield Buffer("x", spec.dim)
    yield from _inputs("normed", spec.dim)
    yield Buffer("logits", len(shard.vocab), wanted=True)
    yield Buffer("qkv", (len(shard.heads) + 2 * len(shard.kv_heads)) * spec.head_dim)
    yield from _inputs("mixed", len(columns_of(spec, shard.heads)))
    if spec.n_experts and shard.hidden:
        yield from _expert_buffers(spec, shard)
    else:
        yield Buffer("gate_up", 2 * gated_width(shard))
        yield from _inputs("hidden", len(shard.hidden))
    yield Buffer("attention_out", spec.dim, rows=max(1, len(shard.output_sum.adds[shard.rank])))
    yield Buffer("ffn_out", spec.dim, rows=max(1, len(shard.down_sum.adds[shard.rank])))
    yield Buffer("branch", spec.dim)


def _inputs(name: str, width: int, rows: int = 1) -> Iterator[Buffer]:
    """Rows in both forms that matmuls read."""
    yield Buffer(name, width, rows=rows)
    yield Buffer(f"{name}_q80", width, Storage.Q80, rows)


def _expert_buffers(spec: ModelSpec, shard: Shard) -> Iterator[Buffer]:
    """Rows for each token and each of its experts."""
    taken = spec.n_active_experts
    yield from _inputs("routed", spec.dim)
    yield Buffer("scores", spec.n_experts)
    routing = Routing(spec.n_experts, taken, spec.topk_normalised)
    yield Buffer("routes", taken, Storage.ROUTES, routing=routing)
    yield from _inputs("dispatched", spec.dim, taken)
    yield Buffer("gate_up", 2 * gated_width(shard), rows=taken)
    yield from _inputs("hidden", len(shard.hidden), taken)
