"""The data of a graph: buffers, matrices, vectors, and tasks in order.

dllama.graph.build makes the Graph of a node from a ModelSpec and a Shard; the executor runs it.
T below is the number of tokens in a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from dllama._kernels.tasks import Form, Kind, Op, Then
from dllama.graph.shard import Shard
from dllama.graph.sum_tree import Subtree
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType


@dataclass(frozen=True)
class Buffer:
    """T * rows rows of `width` numbers."""

    name: str
    width: int
    form: Form = Form.FLOAT
    rows: int = 1


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
    """One operation on all rows of its buffers; on the rows whose logits are asked for: tail.

    weight: a matrix, or the vector of a norm. bias: a vector that is added to a matmul's
    product. sums: the columns of a matmul and their order, all one after another without it;
    the product becomes rows `part` of dst. adds: the order in which an all-reduce adds the parts
    of all nodes. routes: the buffer that says which experts a token takes. lanes: the equal parts
    in which sums over experts are cut. scale: what SCALE multiplies by.
    """

    op: Op
    src: str
    dst: str
    weight: str = ""
    layer: int = 0
    then: Then = Then.STORE
    sums: Subtree | None = None
    part: int = 0
    adds: tuple[tuple[int, ...], ...] = ()
    lanes: int = 1
    tail: bool = False
    kind: Kind = Kind.INFERENCE
    bias: str = ""
    routes: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class Graph:
    """All that the executor needs: buffers by use, weights by name, tasks in order."""

    spec: ModelSpec
    shard: Shard
    buffers: tuple[Buffer, ...]
    matrices: tuple[Matrix, ...]
    vectors: tuple[Vector, ...]
    tasks: tuple[Task, ...]
