"""Collects the tasks of a graph, and the buffers, matrices and vectors that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllama._kernels.tasks import Kind, Storage
from dllama.graph.graph import (
    Buffer,
    CacheShape,
    Delta,
    Graph,
    Matrix,
    Routing,
    Task,
    TensorSlice,
    Vector,
)
from dllama.graph.kv_layers import KVLayers, kv_layers
from dllama.graph.shard import Shard, kv_heads_of, whole_blocks
from dllama.model.layer import Layer
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType


class GraphBuilder:
    """Builds the graph of one node, task by task.

    Attributes:
        spec: the model.
        shard: what the node holds of it.
        layer: the layer that tasks are added to.
    """

    def __init__(self, spec: ModelSpec, shard: Shard) -> None:
        self.spec = spec
        self.shard = shard
        self.layer = 0
        self._kept = kv_layers(spec)
        self._caches = {
            (kept.states, layer): (cache, place)
            for cache, kept in enumerate(self._kept)
            for place, layer in enumerate(kept.layers)
        }
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
        """The blocks of the layer."""
        return self.spec.layer(self.layer)

    @property
    def cache(self) -> tuple[int, int]:
        """The cache of the layer, and which layer of that cache its keys and values are of."""
        return self._caches[False, self.spec.kv_layer(self.layer)]

    @property
    def kv_heads(self) -> range:
        """The KV heads of the layer that the node holds; other nodes may hold them too."""
        group = self.spec.n_heads // self.features.attention.kv_heads
        return kv_heads_of(group, self.shard.heads)

    def graph(self) -> Graph:
        """The graph of everything added so far."""
        return Graph(
            self.spec,
            self.shard,
            tuple(self._buffers.values()),
            tuple(self._matrices.values()),
            tuple(self._vectors.values()),
            tuple(self._tasks),
            tuple(map(self._cache_shape, self._kept)),
            self.spec.vocab_size,
        )

    def _cache_shape(self, kept: KVLayers) -> CacheShape:
        """The shape of the cache of some layers."""
        count = len(kept.layers)
        if kept.states:
            return CacheShape(count, kept.window, delta=self.delta(kept.layers[0]))
        heads = kv_heads_of(self.spec.n_heads // kept.kv_heads, self.shard.heads)
        shared = self.spec.kv_latent_dim > 0
        return CacheShape(count, kept.window, len(heads), *kept.kept, shared=shared)

    def delta(self, layer: int) -> Delta:
        """The heads of linear attention of the node in a layer."""
        sizes, held = self.spec.linear_sizes, self.shard.linear
        assert held is not None
        group = sizes.value_heads // sizes.key_heads
        columns = whole_blocks(held.heads, sizes.value_dim, self.spec.linear_block)
        cache, cache_layer = self._caches[True, layer]
        return Delta(
            count=len(held.heads),
            keys=len(held.key_heads),
            group=group,
            skipped=held.heads.start % group,
            key_dim=sizes.key_dim,
            value_dim=sizes.value_dim,
            taps=sizes.taps,
            offset=held.heads.start * sizes.value_dim - columns.start,
            cache=cache,
            cache_layer=cache_layer,
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
        """Declare a buffer and return its name. Calls with the same name must agree on the rest.

        The arguments are those of graph.Buffer.
        """
        buffer = Buffer(name, width, storage, rows, wanted, routing)
        assert self._buffers.setdefault(name, buffer) == buffer, f"two buffers are named {name}"
        return name

    def input(self, name: str, width: int, kind: WeightType, rows: int = 1) -> str:
        """Declare the buffer that matrices of a weight type read; return its name.

        Args:
            name: the buffer for float32. Q80 blocks have a buffer of their own, NAME_q80.
            width: numbers in a row.
            kind: weight type of the matrices.
            rows: rows of the buffer for each row of the batch.
        """
        if kind.quantised:
            return self.buffer(f"{name}_q80", width, Storage.Q80, rows=rows)
        return self.buffer(name, width, rows=rows)

    def vector(self, name: str, *pieces: tuple[str, range], least: int = 0, stride: int = 0) -> str:
        """Declare a vector and return its name.

        Args:
            name: of the vector.
            *pieces: tensors, and which of their numbers follow one another in the vector.
            least: length to which zeros fill it up.
            stride: numbers from one piece to the next, if more than those of a piece.
        """
        slices: list[TensorSlice] = []
        at = 0
        for tensor, numbers in pieces:
            slices.append(TensorSlice(tensor, range(1), numbers, at))
            at += stride or len(numbers)
        self._vectors[name] = Vector(name, tuple(slices), least)
        return name

    def task(self, op: str, src: str, dst: str, **fields: Any) -> None:
        """Add a task to the current layer; fields: the other fields of graph.Task."""
        self._tasks.append(Task(op, src, dst, layer=self.layer, **fields))

    def transfer(self, op: str, src: str, dst: str, **fields: Any) -> None:
        """Add a task whose time is reported as transfer."""
        self.task(op, src, dst, kind=Kind.TRANSFER, **fields)

    def matrix(self, matrix: Matrix) -> str:
        """Declare a matrix and return its name."""
        self._matrices[matrix.name] = matrix
        return matrix.name

    def multiply(self, op: str, src: str, dst: str, matrix: Matrix, **fields: Any) -> None:
        """Add a task that multiplies the rows of the buffer src by a matrix."""
        self.task(op, src, dst, weight=self.matrix(matrix), **fields)

    def norm(self, src: str, dst: str, tensor: str, **fields: Any) -> None:
        """Add a norm of rows of the residual stream's width; tensor: its weights."""
        names, bias, centred = [tensor], "", self.spec.layer_norms
        if centred:
            names.append(bias := tensor + "_bias")
        for name in names:
            self.vector(name, (name, range(self.spec.dim)))
        epsilon = self.spec.norm_epsilon
        self.task(
            "norm", src, dst, weight=tensor, bias=bias, centred=centred, epsilon=epsilon, **fields
        )

    def norm_for(
        self, name: str, tensor: str, kinds: Sequence[WeightType], tail: bool = False
    ) -> None:
        """Add a norm of x into every buffer that matrices of these types read.

        Args:
            name: as in `input`.
            tensor: the weights of the norm; if empty, x is not normalised.
            kinds: weight types of the matrices.
            tail: whether only the wanted rows are normalised.
        """
        inputs = sorted({self.input(name, self.spec.dim, kind) for kind in kinds})
        if not tensor:
            for one in inputs:
                self.task("encode", "x", one)
        elif len(inputs) == 1:
            self.norm("x", inputs[0], tensor, tail=tail)
        else:
            self.norm("x", name, tensor, tail=tail)
            self.encode(name, self.spec.dim)

    def encode(self, name: str, width: int) -> None:
        """Add a task that quantises the rows of buffer `name` to Q80 blocks in NAME_q80."""
        encoded = self.buffer(f"{name}_q80", width, Storage.Q80)
        self.task("encode", self.buffer(name, width), encoded)
