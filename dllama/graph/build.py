"""Builds the forward pass of one node as data (dllama.graph.graph).

One builder serves all families: it reads what the model and each of its layers are made of from
the ModelSpec. A layer is two blocks, attention and then a feed-forward network or experts, each
of which ends in a sum over all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from dllama._kernels.tasks import Kind, Storage, Then
from dllama.errors import UnsupportedError
from dllama.graph.graph import Buffer, Graph, Heads, KVShape, Routing, Task
from dllama.graph.matrices import fused, gated_width, matrices, projections, vectors
from dllama.graph.shard import Shard, columns_of
from dllama.graph.sum_tree import Summation
from dllama.model.spec import Arch, HiddenAct, Layer, ModelSpec
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
    """The forward pass of one node."""
    tasks = [*embedding(spec, shard)]
    for index in range(spec.n_layers):
        here = Place(spec, shard, index)
        tasks += attention(here)
        tasks += experts(here) if here.layer.experts else feed_forward(here)
    tasks += logits(spec)
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


@dataclass(frozen=True)
class Place:
    """A layer on a node."""

    spec: ModelSpec
    shard: Shard
    index: int

    @property
    def layer(self) -> Layer:
        """What it is made of."""
        return self.spec.layer(self.index)

    def name(self, weight: str) -> str:
        """The full name of one of its weights."""
        return f"layers.{self.index}.{weight}"

    def type_of(self, weight: str) -> WeightType:
        """The type of one of its matrices."""
        return self.spec.type_of(self.name(weight))

    def task(self, op: str, src: str, dst: str, weight: str = "", **fields: Any) -> Task:
        """A task of this layer."""
        return Task(op, src, dst, weight and self.name(weight), self.index, **fields)

    def norm(self, src: str, dst: str, weight: str, then: Then = Then.STORE) -> Task:
        """dst = RMSNorm of src."""
        return self.task("norm", src, dst, weight, then=then, epsilon=self.spec.norm_epsilon)

    def encode(self, rows: str) -> Task:
        """Rows as matrices of quantised weights read them."""
        return self.task("encode", rows, f"{rows}_q80")


def as_read(rows: str, kind: WeightType) -> str:
    """The buffer that has rows as matrices of a weight type read them."""
    return f"{rows}_q80" if kind.quantised else rows


def embedding(spec: ModelSpec, shard: Shard) -> Iterator[Task]:
    """x = rows of the embedding, which the root has and sends to the others."""
    if shard.rank == 0:
        yield Task("embed", "", "x")
    if shard.world_size > 1:
        yield Task("broadcast", "x", "x", kind=Kind.TRANSFER)
    if spec.embedding_scale != 1.0:  # after the broadcast, which sends rows as the file has them
        yield Task("scale", "x", "x", scale=spec.embedding_scale)


def logits(spec: ModelSpec) -> Iterator[Task]:
    """Logits of the rows that want them: final norm, this node's rows of the output matrix."""
    src, last = as_read("normed", spec.type_of("output")), spec.n_layers - 1
    yield Task("norm", "x", src, "final_norm", last, tail=True, epsilon=spec.norm_epsilon)
    yield Task("matmul", src, "logits", "output", last, tail=True)
    if spec.logits_scale != 1.0:
        yield Task("scale", "logits", "logits", "", last, tail=True, scale=spec.logits_scale)


def normed(here: Place, weight: str, kinds: Iterable[WeightType]) -> Iterator[Task]:
    """The norm before a block: x in each form that matrices of these types read."""
    forms = {as_read("normed", kind) for kind in kinds}
    if len(forms) == 1:
        yield here.norm("x", forms.pop(), weight)
    else:
        yield here.norm("x", "normed", weight)
        yield here.encode("normed")


def residual(here: Place, block: str, product: Task | None, sums: Summation) -> Iterator[Task]:
    """The end of a block: x += the sum over all nodes of a product, or its norm.

    Args:
        here: The layer.
        block: "attention" or "ffn", as its buffers and weights are called.
        product: What writes this node's sums; None if it has no columns.
        sums: The order of the sum.
    """
    norm, alone, out = here.layer.norms_after, here.shard.world_size == 1, f"{block}_out"
    if product:
        dst, then = ("x", Then.ADD) if alone and not norm else (out, Then.STORE)
        yield replace(product, dst=dst, then=then, sums=sums.segments)
    if not alone:
        dst, then = ("branch", Then.STORE) if norm else ("x", Then.ADD)
        yield here.task("all_reduce", out, dst, then=then, adds=sums.adds, kind=Kind.TRANSFER)
    if norm:
        yield here.norm(out if alone else "branch", "x", f"{block}_post_norm", Then.ADD)


def attention(here: Place) -> Iterator[Task]:
    """x += attention: norm, q, k and v, RoPE, attention, output projection."""
    kind, heads = here.layer.attention, heads_of(here)
    parts = [*projections(here.spec, here.shard, here.name(""))]
    yield from normed(here, "attention_norm", [matrix.weight_type for matrix, _ in parts])
    for matrix, column in parts:
        src, bias = as_read("normed", matrix.weight_type), f"{matrix.name}_bias"
        task = Task("matmul", src, "qkv", matrix.name, here.index, column=column)
        yield replace(task, bias=bias) if kind.biases else task
    norm = "qk_norm" if kind.head_norms else ""
    epsilon = here.spec.norm_epsilon
    yield here.task("rope", "qkv", "qkv", norm, heads=heads, epsilon=epsilon)
    yield here.task("attention", "qkv", "mixed", heads=heads)
    if here.type_of("o").quantised:
        yield here.encode("mixed")
    product = here.task("matmul", as_read("mixed", here.type_of("o")), "", "o")
    yield from residual(here, "attention", product, here.shard.output_sum)


def heads_of(here: Place) -> Heads:
    """The heads of a node and how they attend in a layer."""
    spec, shard, kind = here.spec, here.shard, here.layer.attention
    group = spec.n_heads // spec.n_kv_heads
    return Heads(
        count=len(shard.heads),
        kv_count=len(shard.kv_heads),
        group=group,
        skipped=shard.heads.start % group,
        size=spec.head_dim,
        offset=shard.heads.start * spec.head_dim - columns_of(spec, shard.heads).start,
        scale=kind.scale,
        cap=kind.cap,
        rope=kind.rope,
    )


def feed_forward(here: Place) -> Iterator[Task]:
    """x += feed-forward network: norm, gate and up with their activation, down projection."""
    product = None
    if here.shard.hidden:
        yield from normed(here, "ffn_norm", [here.type_of("gate"), here.type_of("up")])
        hidden = as_read("hidden", here.type_of("down"))
        task = here.task("matmul", "normed", hidden, "gate_up", then=gated(here.spec))
        yield from gate_and_up(here, here.name(""), task, "activate")
        product = here.task("matmul", hidden, "", "down")
    yield from residual(here, "ffn", product, here.shard.down_sum)


def experts(here: Place) -> Iterator[Task]:
    """x += the experts that the router chooses for each row of x, weighted.

    Rows are sorted by experts, so that a pass reads the weights of an expert once, and those of
    experts that no row takes never. The router is on every node, and chooses the same everywhere.
    """
    product = None
    if here.shard.hidden:
        router, down = here.type_of("router"), here.type_of("experts.down")
        yield here.norm("x", "routed", "ffn_norm")
        if router.quantised:
            yield here.encode("routed")
        yield here.task("matmul", as_read("routed", router), "scores", "router")
        yield here.task("route", "scores", "routes")
        kinds = (here.type_of("experts.gate"), here.type_of("experts.up"))
        for dst in sorted({as_read("dispatched", kind) for kind in kinds}):
            yield here.task("dispatch", "routed", dst, routes="routes")
        hidden = as_read("expert_hidden", down)
        task = here.task(
            "experts_gated", "dispatched", hidden, "experts_gate_up", then=gated(here.spec),
            routes="routes",
        )  # fmt: skip
        yield from gate_and_up(here, here.name("experts."), task, "experts_activate")
        product = here.task("experts_sum", hidden, "", "experts_down", routes="routes")
    yield from residual(here, "ffn", product, here.shard.down_sum)


def gated(spec: ModelSpec) -> Then:
    """The activation of gate and up."""
    return Then.GATED_GELU if spec.hidden_act is HiddenAct.GELU else Then.GATED


def gate_and_up(here: Place, prefix: str, task: Task, activate: str) -> Iterator[Task]:
    """Gate and up with their activation: one task, or three where the two have different types.

    Args:
        here: The layer.
        prefix: Of the names of the two tensors.
        task: Does both at once, from rows of its src in the form that they read.
        activate: The op that does the activation alone.
    """
    gate, up = (as_read(task.src, here.spec.type_of(prefix + name)) for name in ("gate", "up"))
    if fused(here.spec, prefix):
        yield replace(task, src=gate)
        return
    both = "expert_gate_up" if task.routes else "gate_up"
    name, store = task.weight.removesuffix("gate_up"), replace(task, dst=both, then=Then.STORE)
    yield replace(store, src=gate, weight=f"{name}gate")
    yield replace(store, src=up, weight=f"{name}up", column=gated_width(here.shard))
    yield replace(task, op=activate, src=both, weight="")


def buffers(spec: ModelSpec, shard: Shard, tasks: Iterable[Task]) -> Iterator[Buffer]:
    """The buffers that tasks name."""
    named = {name for task in tasks for name in (task.src, task.dst, task.routes)}
    yield from (buffer for buffer in _buffers(spec, shard) if buffer.name in named)


def _buffers(spec: ModelSpec, shard: Shard) -> Iterator[Buffer]:
    """All buffers that tasks may name."""
    taken = spec.n_active_experts
    sums = [max(1, len(end.adds[shard.rank])) for end in (shard.output_sum, shard.down_sum)]
    yield Buffer("x", spec.dim)
    yield from _forms("normed", spec.dim)
    yield Buffer("logits", len(shard.vocab), wanted=True)
    yield Buffer("qkv", (len(shard.heads) + 2 * len(shard.kv_heads)) * spec.head_dim)
    yield from _forms("mixed", len(columns_of(spec, shard.heads)))
    yield Buffer("gate_up", 2 * gated_width(shard))
    yield from _forms("hidden", len(shard.hidden))
    yield Buffer("attention_out", spec.dim, rows=sums[0])
    yield Buffer("ffn_out", spec.dim, rows=sums[1])
    yield Buffer("branch", spec.dim)
    yield from _forms("routed", spec.dim)
    yield Buffer("scores", spec.n_experts)
    routing = Routing(spec.n_experts, taken, spec.topk_normalised)
    yield Buffer("routes", taken, Storage.ROUTES, routing=routing)
    yield from _forms("dispatched", spec.dim, taken)
    yield Buffer("expert_gate_up", 2 * gated_width(shard), rows=taken)
    yield from _forms("expert_hidden", len(shard.hidden), taken)


def _forms(name: str, width: int, rows: int = 1) -> Iterator[Buffer]:
    """Rows in both forms that matmuls read."""
    yield Buffer(name, width, rows=rows)
    yield Buffer(f"{name}_q80", width, Storage.Q80, rows)
