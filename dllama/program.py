"""A forward pass as data: buffers, matrices and a list of tasks.

A model family builds a Program from its ModelSpec (dllama.families); the executor runs
it without knowing any family. T below is the number of tokens in a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dllama._kernels.ops import Form, Kind, Op, Then
from dllama.spec import FloatType, ModelSpec


@dataclass(frozen=True)
class Buffer:
    """T rows of `width` numbers."""

    name: str
    width: int
    form: Form = Form.FLOAT


@dataclass(frozen=True)
class Part:
    """All rows of a tensor of the file, put into a matrix.

    Row i becomes row at + i, or, with block and step, at + i // block * step + i % block.
    """

    tensor: str
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
    buffers: tuple[Buffer, ...]
    matrices: tuple[Matrix, ...]
    vectors: tuple[str, ...]
    tasks: tuple[Task, ...]


def quantised(spec: ModelSpec) -> bool:
    """Whether matmuls read Q80 blocks."""
    return spec.weight_type in (FloatType.Q40, FloatType.Q80)


def lanes(units: int) -> int:
    """Equal parts in which a row's sum is cut: the largest power of two up to 8 that divides units.

    A unit is a query head for the output projection, a block of 32 hidden units for the down
    projection. Parts are added as a binary tree, so the sum is the same however many nodes
    hold the parts.
    """
    return next(parts for parts in (8, 4, 2, 1) if units % parts == 0)


def output_lanes(spec: ModelSpec) -> int:
    """Lanes of the attention's output projection; quantised parts are whole blocks too."""
    parts = lanes(spec.n_heads)
    while quantised(spec) and spec.q_dim // parts % 32:
        parts //= 2
    return parts


def hidden_lanes(spec: ModelSpec) -> int:
    """Lanes of the down projection: whole blocks of 32 where there are any."""
    return lanes(spec.hidden_dim // 32) if spec.hidden_dim % 32 == 0 else 1


def gated_matrix(name: str, gate: str, up: str, hidden_dim: int, cols: int) -> Matrix:
    """Gate and up in alternating blocks of 32 rows, so that SwiGLU finds both side by side."""
    blocks = (hidden_dim + 31) // 32
    parts = (Part(gate, 0, 32, 64), Part(up, 32, 32, 64))
    return Matrix(name, 64 * blocks, cols, parts)


def attention_tasks(spec: ModelSpec, layer: int) -> Iterator[Task]:
    """x += attention block of x: norm, q/k/v, RoPE, attention, output projection."""
    at = f"layers.{layer}."
    mixed = "mixed_input" if quantised(spec) else "mixed"
    yield Task(Op.NORM, "x", "normed", at + "attention_norm", layer)
    yield Task(Op.MATMUL, "normed", "qkv", at + "qkv", layer)
    yield Task(Op.ROPE, "qkv", "qkv", layer=layer)
    yield Task(Op.ATTENTION, "qkv", "mixed", layer=layer)
    if quantised(spec):
        yield Task(Op.ENCODE, "mixed", mixed, layer=layer)
    yield Task(Op.MATMUL, mixed, "x", at + "o", layer, Then.ADD, output_lanes(spec))


def feed_forward_tasks(spec: ModelSpec, layer: int) -> Iterator[Task]:
    """x += feed-forward network of x: norm, gate and up with SwiGLU, down projection."""
    at = f"layers.{layer}."
    yield Task(Op.NORM, "x", "normed", at + "ffn_norm", layer)
    yield Task(Op.MATMUL, "normed", "hidden", at + "gate_up", layer, Then.GATED)
    yield Task(Op.MATMUL, "hidden", "x", at + "down", layer, Then.ADD, hidden_lanes(spec))


def logits_tasks(spec: ModelSpec) -> Iterator[Task]:
    """Logits of the rows that are asked for: final norm and output matrix."""
    last = spec.n_layers - 1
    yield Task(Op.NORM, "x", "normed", "final_norm", last, tail=True)
    yield Task(Op.MATMUL, "normed", "logits", "output", last, tail=True)


def dense_buffers(spec: ModelSpec) -> tuple[Buffer, ...]:
    """The buffers that the tasks above name, but for the logits."""
    buffers = [
        Buffer("x", spec.dim),
        Buffer("normed", spec.dim, Form.INPUT),
        Buffer("qkv", spec.q_dim + 2 * spec.kv_dim),
        Buffer("mixed", spec.q_dim),
        Buffer("hidden", spec.hidden_dim, Form.INPUT),
    ]
    if quantised(spec):
        buffers.append(Buffer("mixed_input", spec.q_dim, Form.INPUT))
    return tuple(buffers)


def dense_matrices(spec: ModelSpec) -> Iterator[Matrix]:
    """The matrices that the tasks above name."""
    kv = spec.q_dim + spec.kv_dim
    for layer in range(spec.n_layers):
        at = f"layers.{layer}."
        parts = (Part(at + "q"), Part(at + "k", spec.q_dim), Part(at + "v", kv))
        yield Matrix(at + "qkv", kv + spec.kv_dim, spec.dim, parts)
        yield Matrix(at + "o", spec.dim, spec.q_dim, (Part(at + "o"),))
        yield gated_matrix(at + "gate_up", at + "gate", at + "up", spec.hidden_dim, spec.dim)
        yield Matrix(at + "down", spec.dim, spec.hidden_dim, (Part(at + "down"),))
    yield Matrix("output", spec.vocab_size, spec.dim, (Part("output"),))


def dense_vectors(spec: ModelSpec) -> Iterator[str]:
    """The norm weights that the tasks above name."""
    for layer in range(spec.n_layers):
        yield f"layers.{layer}.attention_norm"
        yield f"layers.{layer}.ffn_norm"
    yield "final_norm"
