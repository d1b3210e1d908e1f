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


@dataclass(frozen=True)
class Buffer:
    """T * rows rows of `width` numbers."""

    name: str
    width: int
    form: Form = Form.FLOAT
    rows: int = 1


@dataclass(frozen=True)
class TensorSlice:
    """Some rows and columns of a tensor of the file, put into a matrix.

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
    slices: tuple[TensorSlice, ...]


@dataclass(frozen=True)
class VectorSlice:
    """Some numbers of a vector of the file."""

    tensor: str
    rows: range


@dataclass(frozen=True)
class Vector:
    """float32 numbers, made of one or several vectors of the file, one after another."""

    name: str
    slices: tuple[VectorSlice, ...]


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
