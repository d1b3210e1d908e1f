"""The data of a graph: buffers, matrices, vectors, and tasks in order.

dllama.graph.build makes the Graph of a node from a ModelSpec and a Shard; the executor runs it.
T below is the number of tokens in a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from dllama._kernels.tasks import Kind, Storage, Then
from dllama.graph.shard import Shard
from dllama.graph.sum_tree import Segment
from dllama.model.spec import ModelSpec, Rope
from dllama.model.weight_types import WeightType


@dataclass(frozen=True)
class Routing:
    """Which experts a row takes: `taken` of `experts`.

    normalised: the weights of a row's experts add up to 1.
    """

    experts: int
    taken: int
    normalised: bool


@dataclass(frozen=True)
class Buffer:
    """Room for the rows of a batch.

    Args:
        name: what tasks call it.
        width: numbers in a row.
        storage: how rows are held.
        rows: for each row of the batch.
        wanted: has rows only for those of the batch whose logits are wanted.
        routing: of a buffer of routes.
    """

    name: str
    width: int
    storage: Storage = Storage.FLOAT
    rows: int = 1
    wanted: bool = False
    routing: Routing | None = None


@dataclass(frozen=True)
class Heads:
    """The attention heads of one node and how they attend.

    Args:
        count: query heads of this node.
        kv_count: KV heads that these read.
        group: query heads that read one KV head, on all nodes.
        skipped: query heads of the first KV head's group that other nodes hold.
        size: elements of a head.
        offset: column of the task's dst at which the first head begins.
        scale: what q k^T is multiplied by.
        cap: if not 0, a score s becomes cap * tanh(s / cap).
        rope: how queries and keys are turned.
    """

    count: int
    kv_count: int
    group: int
    skipped: int
    size: int
    offset: int
    scale: float
    cap: float
    rope: Rope


@dataclass(frozen=True)
class KVShape:
    """What a position of the KV cache holds on one node: `heads` of `size` in each layer."""

    layers: int
    heads: int
    size: int


@dataclass(frozen=True)
class TensorSlice:
    """Some rows and columns of a tensor of the file, and their place in a matrix or a vector.

    The i-th of the rows becomes row at + i of the matrix, or, with block and step, row
    at + i // block * step + i % block. A vector of the file is one row, whose columns become
    numbers at, at + 1, ... of the vector.
    """

    tensor: str
    rows: range
    cols: range
    at: int = 0
    block: int = 0
    step: int = 0


@dataclass(frozen=True)
class Matrix:
    """rows x cols weights of one type, made of one or several tensors with `cols` columns."""

    name: str
    rows: int
    cols: int
    slices: tuple[TensorSlice, ...]
    weight_type: WeightType


@dataclass(frozen=True)
class Vector:
    """float32 numbers, made of one or several vectors of the file, one after another."""

    name: str
    slices: tuple[TensorSlice, ...]

    @property
    def size(self) -> int:
        """Numbers of the vector."""
        return sum(len(piece.cols) for piece in self.slices)

    @property
    def weight_type(self) -> WeightType:
        """How the file stores it."""
        return WeightType.F32


@dataclass(frozen=True)
class Task:
    """One operation on rows of its buffers.

    Args:
        op: its name in dllama._kernels.op_table.
        src: the buffer that it reads.
        dst: the buffer that it writes.
        weight: a matrix, or the vector of a norm.
        layer: where it belongs, and which keys and values it uses.
        then: what happens to the result.
        tail: works on the rows whose logits are wanted only, else on all.
        kind: what its time counts as.
        bias: a vector that is added to a matmul's product.
        sums: the order in which a matmul adds columns, without it one after another; each sum that
            is left becomes rows of dst.
        column: of dst, at which a matmul's product begins.
        adds: the order in which an all-reduce adds the sums of all nodes, by rank.
        heads: of rope and attention.
        epsilon: of a norm.
        scale: what `scale` multiplies by.
        routes: the buffer that says which experts a row takes.
    """

    op: str
    src: str
    dst: str
    weight: str = ""
    layer: int = 0
    then: Then = Then.STORE
    tail: bool = False
    kind: Kind = Kind.INFERENCE
    bias: str = ""
    sums: tuple[Segment, ...] = ()
    column: int = 0
    adds: tuple[tuple[int, ...], ...] = ()
    heads: Heads | None = None
    epsilon: float = 0.0
    scale: float = 1.0
    routes: str = ""


@dataclass(frozen=True)
class Graph:
    """All that the executor needs: buffers by use, weights by name, tasks in order.

    Args:
        spec: the model.
        shard: the part of it that this node holds.
        buffers: that tasks read and write, "logits" among them.
        matrices: packed weights.
        vectors: norms and biases.
        tasks: in the order in which they are done.
        kv: what its KV cache holds.
        vocab_size: token ids are below it.
    """

    spec: ModelSpec
    shard: Shard
    buffers: tuple[Buffer, ...]
    matrices: tuple[Matrix, ...]
    vectors: tuple[Vector, ...]
    tasks: tuple[Task, ...]
    kv: KVShape
    vocab_size: int
