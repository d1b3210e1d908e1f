"""Collects the tasks of a graph, and the buffers, matrices and vectors that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllama._kernels.tasks import Kind, Storage
from dllama.graph.graph import Buffer, Graph, KVShape, Matrix, Routing, Task, TensorSlice, Vector
from dllama.graph.shard import Shard
from dllama.model.spec import Layer, ModelSpec
from dllama.model.weight_types import WeightType


class GraphBuilder:
    """The graph of one node in the making.

    Attributes:
        spec: the model.
        shard: the part of it that the node holds.
        layer: the one that tasks are added to.
    """

    def __init__(self, spec: ModelSpec, shard: Shard) -> None:
        self.spec = spec
        self.shard = shard
        self.layer = 0
        self._buffers: dict[str, Buffer] = {}
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, Vector] = {}
        self._tasks: list[Task] = []

    @property
    def at(self) -> str:
        """Prefix of the names of the layer's tensors."""
        return f"layers.{self.layer}."

    @property
    def features(self) -> Layer:
        """What the layer is made of."""
        return self.spec.layer(self.layer)

    def graph(self) -> Graph:
        """All that was added."""
        return Graph(
            self.spec,
            self.shard,
            tuple(self._buffers.values()),
            tuple(self._matrices.values()),
            tuple(self._vectors.values()),
            tuple(self._tasks),
            KVShape(self.spec.n_layers, len(self.shard.kv_heads), self.spec.head_dim),
            self.spec.vocab_size,
        )

    def buffer(
        self,
        name: str,
        width: int,
        storage: Storage = Storage.FLOAT,
        *,
        rows: int = 1,
        wanted: bool = False,
        routing: Routing | None = None,
    ) -> str:
        """Name a buffer; all tasks that use it must agree on what it is (graph.Buffer)."""
        buffer = Buffer(name, width, storage, rows, wanted, routing)
        assert self._buffers.setdefault(name, buffer) == buffer, f"two buffers are named {name}"
        return name

    def input(self, name: str, width: int, kind: WeightType, rows: int = 1) -> str:
        """Name the buffer of rows `name` as matrices of a weight type read them.

        Args:
            name: of the rows as floats; Q80 blocks are a buffer of their own.
            width: of a row.
            kind: of the matrices.
            rows: for each row of the batch.
        """
        if kind.quantised:
            return self.buffer(f"{name}_q80", width, Storage.Q80, rows=rows)
        return self.buffer(name, width, rows=rows)

    def vector(self, name: str, *parts: tuple[str, range]) -> str:
        """Name a vector of some numbers of each tensor, one after another."""
        slices: list[TensorSlice] = []
        at = 0
        for tensor, numbers in parts:
            slices.append(TensorSlice(tensor, range(1), numbers, at))
            at += len(numbers)
        self._vectors[name] = Vector(name, tuple(slices))
        return name

    def task(self, op: str, src: str, dst: str, **fields: Any) -> None:
        """Add a task; fields: those of graph.Task."""
        self._tasks.append(Task(op, src, dst, layer=self.layer, **fields))

    def transfer(self, op: str, src: str, dst: str, **fields: Any) -> None:
        """Add a task whose time counts as transfer."""
        self.task(op, src, dst, kind=Kind.TRANSFER, **fields)

    def multiply(self, op: str, src: str, dst: str, matrix: Matrix, **fields: Any) -> None:
        """Add a task that multiplies the rows of the buffer src by a matrix."""
        self._matrices[matrix.name] = matrix
        self.task(op, src, dst, weight=matrix.name, **fields)

    def norm(self, src: str, dst: str, tensor: str, **fields: Any) -> None:
        """Add an RMSNorm of rows as wide as the residual stream, whose weights a tensor has."""
        weight = self.vector(tensor, (tensor, range(self.spec.dim)))
        self.task("norm", src, dst, weight=weight, epsilon=self.spec.norm_epsilon, **fields)

    def norm_for(
        self, name: str, tensor: str, kinds: Sequence[WeightType], tail: bool = False
    ) -> None:
        """Add an RMSNorm of x to the rows `name`, in each form that such matrices read."""
        forms = {self.input(name, self.spec.dim, kind) for kind in kinds}
        if len(forms) == 1:
            self.norm("x", forms.pop(), tensor, tail=tail)
        else:
            self.norm("x", name, tensor, tail=tail)
            self.encode(name, self.spec.dim)

    def encode(self, name: str, width: int) -> None:
        """Add a task that turns the rows `name` into Q80 blocks."""
        encoded = self.buffer(f"{name}_q80", width, Storage.Q80)
        self.task("encode", self.buffer(name, width), encoded)
