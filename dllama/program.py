"""A forward pass as data: buffers, matrices and a list of tasks.

A model family builds a Program from its ModelSpec and the Shard of a node (dllama.families);
the executor runs it without knowing any family. T below is the number of tokens in a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dllama import sharding
from dllama._kernels.ops import Form, Kind, Op, Then
from dllama.sharding import Shard, columns_of, lanes_of
from dllama.spec import FloatType, ModelSpec


@dataclass(frozen=True)
class Buffer:
    """T rows of `width` numbers."""

    name: str
    width: int
    form: Form = Form.FLOAT


@dataclass(frozen=True)
class Part:
    """Rows of a tensor of the file, cut to some columns, put into a matrix.

    The i-th of the rows becomes row at + i of the matrix, or, with block and step, row
    at + i // block * step + i % block.
    """

    tensor: str
    rows: range
    cols: range
    at: int = 0
    block: int = 0
    step: int = 0


@dataclass(frozen=True)
class Matrix:
    """rows x cols weights, made of one or several tensors with `cols` columns."""

    name: str
    rows: int
    cols: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Task:
    """One operation on all rows of its buffers; on the rows whose logits are asked for: tail."""

    op: Op
    src: str
    dst: str
    weight: str = ""
    layer: int = 0
    then: Then = Then.STORE
    lanes: int = 1
    tail: bool = False
    kind: Kind = Kind.INFERENCE


@dataclass(frozen=True)
class Program:
    """All that the executor needs: buffers by use, weights by name, tasks in order."""

    spec: ModelSpec
    shard: Shard
    buffers: tuple[Buffer, ...]
    matrices: tuple[Matrix, ...]
    vectors: tuple[str, ...]
    tasks: tuple[Task, ...]


def quantised(spec: ModelSpec) -> bool:
    """Whether matmuls read Q80 blocks."""
    return spec.weight_type in (FloatType.Q40, FloatType.Q80)


def gated_matrix(name: str, gate: str, up: str, hidden: range, cols: int) -> Matrix:
    """Gate and up in alternating blocks of 32 rows, so that SwiGLU finds both side by side."""
    blocks = (len(hidden) + 31) // 32
    parts = (
        Part(gate, hidden, range(cols), 0, 32, 64),
        Part(up, hidden, range(cols), 32, 32, 64),
    )
    return Matrix(name, 64 * blocks, cols, parts)


def embedding_tasks(shard: Shard) -> Iterator[Task]:
    """x = rows of the embedding, which the root has and sends to the others."""
    if shard.rank == 0:
        yield Task(Op.EMBED, "", "x")
    if shard.world > 1:
        yield Task(Op.BROADCAST, "x", "x", kind=Kind.TRANSFER)


def residual_tasks(
    shard: Shard, src: str, partial: str, weight: str, layer: int, lanes: int
) -> Iterator[Task]:
    """x += matrix times src, where every node has some columns of the matrix, or none."""
    if shard.world == 1:
        yield Task(Op.MATMUL, src, "x", weight, layer, Then.ADD, lanes)
        return
    if lanes:
        yield Task(Op.MATMUL, src, partial, weight, layer, Then.STORE, lanes)
    yield Task(Op.ALL_REDUCE, partial, "x", layer=layer, then=Then.ADD, kind=Kind.TRANSFER)


def attention_tasks(spec: ModelSpec, shard: Shard, layer: int) -> Iterator[Task]:
    """x += attention block of x: norm, q/k/v, RoPE, attention, output projection."""
    at = f"layers.{layer}."
    mixed = "mixed_input" if quantised(spec) else "mixed"
    lanes = lanes_of(shard.heads, spec.n_heads, sharding.output_lanes(spec))
    yield Task(Op.NORM, "x", "normed", at + "attention_norm", layer)
    yield Task(Op.MATMUL, "normed", "qkv", at + "qkv", layer)
    yield Task(Op.ROPE, "qkv", "qkv", layer=layer)
    yield Task(Op.ATTENTION, "qkv", "mixed", layer=layer)
    if quantised(spec):
        yield Task(Op.ENCODE, "mixed", mixed, layer=layer)
    yield from residual_tasks(shard, mixed, "attention_out", at + "o", layer, lanes)


def feed_forward_tasks(spec: ModelSpec, shard: Shard, layer: int) -> Iterator[Task]:
    """x += feed-forward network of x: norm, gate and up with SwiGLU, down projection."""
    at, lanes = f"layers.{layer}.", 0
    if shard.hidden:
        lanes = lanes_of(shard.hidden, spec.hidden_dim, sharding.hidden_lanes(spec))
        yield Task(Op.NORM, "x", "normed", at + "ffn_norm", layer)
        yield Task(Op.MATMUL, "normed", "hidden", at + "gate_up", layer, Then.GATED)
    yield from residual_tasks(shard, "hidden", "ffn_out", at + "down", layer, lanes)


def logits_tasks(spec: ModelSpec) -> Iterator[Task]:
    """Logits of the rows that are asked for: final norm, this node's rows of the output matrix."""
    last = spec.n_layers - 1
    yield Task(Op.NORM, "x", "normed", "final_norm", last, tail=True)
    yield Task(Op.MATMUL, "normed", "logits", "output", last, tail=True)


def dense_buffers(spec: ModelSpec, shard: Shard) -> tuple[Buffer, ...]:
    """The buffers that the tasks above name, but for the logits."""
    columns = len(columns_of(spec, shard.heads))
    buffers = [
        Buffer("x", spec.dim),
        Buffer("normed", spec.dim, Form.INPUT),
        Buffer("qkv", (len(shard.heads) + 2 * len(shard.kv_heads)) * spec.head_dim),
        Buffer("mixed", columns),
    ]
    if quantised(spec):
        buffers.append(Buffer("mixed_input", columns, Form.INPUT))
    if shard.hidden:
        buffers.append(Buffer("hidden", len(shard.hidden), Form.INPUT))
    if shard.world > 1:
        buffers += [Buffer("attention_out", spec.dim), Buffer("ffn_out", spec.dim)]
    return tuple(buffers)


def dense_matrices(spec: ModelSpec, shard: Shard) -> Iterator[Matrix]:
    """The matrices that the tasks above name."""
    for layer in range(spec.n_layers):
        at = f"layers.{layer}."
        yield _qkv(spec, shard, at)
        cols = columns_of(spec, shard.heads)
        part = Part(at + "o", range(spec.dim), cols)
        yield Matrix(at + "o", spec.dim, len(cols), (part,))
        if shard.hidden:
            yield gated_matrix(at + "gate_up", at + "gate", at + "up", shard.hidden, spec.dim)
            part = Part(at + "down", range(spec.dim), shard.hidden)
            yield Matrix(at + "down", spec.dim, len(shard.hidden), (part,))
    part = Part("output", shard.vocab, range(spec.dim))
    yield Matrix("output", len(shard.vocab), spec.dim, (part,))


def _qkv(spec: ModelSpec, shard: Shard, at: str) -> Matrix:
    """Rows of q, k and v, one below the other."""
    q, kv = (_rows(heads, spec.head_dim) for heads in (shard.heads, shard.kv_heads))
    cols = range(spec.dim)
    parts = (
        Part(at + "q", q, cols),
        Part(at + "k", kv, cols, len(q)),
        Part(at + "v", kv, cols, len(q) + len(kv)),
    )
    return Matrix(at + "qkv", len(q) + 2 * len(kv), spec.dim, parts)


def _rows(heads: range, size: int) -> range:
    return range(heads.start * size, heads.stop * size)


def dense_vectors(spec: ModelSpec) -> Iterator[str]:
    """The norm weights that the tasks above name."""
    for layer in range(spec.n_layers):
        yield f"layers.{layer}.attention_norm"
        yield f"layers.{layer}.ffn_norm"
    yield "final_norm"
