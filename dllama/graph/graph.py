"""The data of a graph: buffers, matrices, vectors, and tasks in order.

dllama.graph.build makes the Graph of a node from a ModelSpec and a Shard. The executor runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dllama._kernels.tasks import Kind, Storage, Then
from dllama.graph.shard import Shard
from dllama.graph.sum_tree import Segment
from dllama.model.layer import Rope
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType


@dataclass(frozen=True)
class Routing:
    """How a router chooses experts.

    Args:
        experts: experts of the layer.
        taken: experts that a row takes.
        normalised: whether the weights of a row's experts are scaled to add up to 1.
        sigmoid: whether weights are the sigmoid of each score, not the softmax over all.
        groups: experts are in so many groups of equal size.
        groups_taken: a row takes experts of so many groups, those with the best scores.
        group_best: the score of a group is the sum of those of so many of its best, 1 or 2.
        scale: factor of all weights.
    """

    experts: int
    taken: int
    normalised: bool
    sigmoid: bool = False
    groups: int = 1
    groups_taken: int = 1
    group_best: int = 1
    scale: float = 1.0


@dataclass(frozen=True)
class Buffer:
    """Room for the rows of a batch.

    Args:
        name: how tasks refer to it.
        width: numbers in a row.
        storage: how numbers are stored.
        rows: rows of the buffer for each row of the batch.
        wanted: whether it has rows only for the rows of the batch whose logits are wanted.
        routing: for Storage.ROUTES: how experts are chosen.
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
        first: the first of them.
        kv_count: KV heads that these read.
        first_kv: the first of them.
        all: query heads of all nodes.
        group: query heads that read one KV head, over all nodes.
        skipped: query heads of the first KV group that lower ranks hold.
        size: elements of a head, as the KV cache has them.
        offset: column of the task's dst where the first head begins.
        scale: factor of q k^T.
        cap: if not 0, a score s becomes cap * tanh(s / cap).
        rope: how queries and keys are rotated; None if they are not.
        window: how many positions a row sees, its own included; 0 for all up to its own.
        cache: the KV cache of the layer, an index of Graph.caches.
        cache_layer: which layer of that cache it is.
        stores: whether it has keys and values of its own, not those of an earlier layer.
        value_norm: whether the values of a head are divided by their root mean square.
        keys_as_values: whether values are the keys before their norm and RoPE.
    """

    count: int
    first: int
    kv_count: int
    first_kv: int
    all: int
    group: int
    skipped: int
    size: int
    offset: int
    scale: float
    cap: float
    rope: Rope | None
    window: int
    cache: int
    cache_layer: int
    stores: bool = True
    value_norm: bool = False
    keys_as_values: bool = False


@dataclass(frozen=True)
class Delta:
    """The heads of linear attention of one node, a gated delta network or Mamba-2.

    Args:
        count: value heads of this node.
        keys: key heads that these read.
        group: value heads that read one key head, over all nodes.
        skipped: value heads of the first key head that lower ranks hold.
        key_dim: numbers of a query or a key of a head.
        value_dim: numbers of a value of a head.
        taps: positions that the convolution sees, its own included.
        offset: column of the task's dst where the first head begins.
        cache: the cache with the states of the layer, an index of Graph.caches.
        cache_layer: which layer of that cache it is.
    """

    count: int
    keys: int
    group: int
    skipped: int
    key_dim: int
    value_dim: int
    taps: int
    offset: int
    cache: int
    cache_layer: int

    @property
    def channels(self) -> int:
        """Columns that the convolution reads: queries, keys and values."""
        return 2 * self.keys * self.key_dim + self.count * self.value_dim


@dataclass(frozen=True)
class Scan:
    """What Mamba-2 does with the heads of a Delta.

    Args:
        first: the first value head of the node.
        norm_first: whether a norm comes before the multiplication by silu(z).
        conv_bias: whether the convolution has a bias.
        least_step: least time step.
        most_step: greatest time step; 0 if there is no limit.
    """

    first: int
    norm_first: bool
    conv_bias: bool
    least_step: float
    most_step: float


@dataclass(frozen=True)
class CacheShape:
    """Shape of a cache of one node, of keys and values or of states.

    Args:
        layers, window: how many layers it is for, and their window; 0 if they have none.
        heads: KV heads of each layer.
        size, values: elements of a key, and of a value.
        shared: whether a value is the first elements of its key, and is not stored.
        delta: linear attention of one of these layers; None if it is a KV cache.
    """

    layers: int
    window: int
    heads: int = 0
    size: int = 0
    values: int = 0
    shared: bool = False
    delta: Delta | None = None


class TensorSlice(NamedTuple):
    """Some rows and columns of a tensor of the file, and their place in a matrix or a vector.

    Row i of the slice becomes row at + i of the matrix or, if block is not 0, row
    at + i // block * stride + i % block. A vector is one row: its column i becomes number at + i.

    Args:
        tensor: name in the model file.
        rows: rows of the tensor; range(1) for a vector.
        cols: columns of the tensor.
        at: first row of the matrix, or first number of the vector.
        block: rows that stay next to each other; 0 for all of them.
        stride: rows of the matrix from one block to the next.
    """

    tensor: str
    rows: range
    cols: range
    at: int = 0
    block: int = 0
    stride: int = 0

    def row_bytes(self, kind: WeightType) -> int:
        """Bytes of a row of the slice: those of the whole blocks that hold its columns."""
        return kind.nbytes(len(kind.covering(self.cols)))


@dataclass(frozen=True)
class Matrix:
    """A matrix of rows x cols weights of one type, assembled from slices of one or more tensors.

    All slices are of the same columns.
    """

    name: str
    rows: int
    cols: int
    slices: tuple[TensorSlice, ...]
    weight_type: WeightType

    @property
    def skip(self) -> int:
        """Columns of the first block of a row that are not of the matrix."""
        columns = self.slices[0].cols
        return columns.start - self.weight_type.covering(columns).start


@dataclass(frozen=True)
class Vector:
    """A float32 vector, assembled from one or more vectors of the file.

    Args:
        name: how tasks refer to it.
        slices: its pieces.
        least: the vector is filled up with zeros to this length.
    """

    name: str
    slices: tuple[TensorSlice, ...]
    least: int = 0

    @property
    def size(self) -> int:
        """Length of the vector."""
        return max([self.least, *(piece.at + len(piece.cols) for piece in self.slices)])

    @property
    def weight_type(self) -> WeightType:
        """The type in the file."""
        return WeightType.F32


@dataclass(frozen=True)
class SharedExpert:
    """The down projection of an expert that all rows take.

    Args:
        src: the buffer with its hidden units.
        weight: the matrix.
        factors: the buffer with a factor for each row; empty for 1.
        sums: as in Task. The additions are those of the other experts' columns.
    """

    src: str
    weight: str
    factors: str
    sums: tuple[Segment, ...]


@dataclass(frozen=True)
class Product:
    """A product that is added to that of a task.

    Args:
        src: the buffer that is multiplied.
        weight: the matrix.
        sums: as in Task. The additions are those of the task's own columns.
    """

    src: str
    weight: str
    sums: tuple[Segment, ...]


@dataclass(frozen=True)
class HeadParts:
    """Where each head's numbers are, for a product of each head with a matrix of its own.

    Args:
        heads: of the node.
        rows: of the matrix of a head.
        src_stride: columns of the task's src from the numbers of a head to those of the next.
        dst_stride: the same in dst.
    """

    heads: int
    rows: int
    src_stride: int
    dst_stride: int


@dataclass(frozen=True)
class Task:
    """One operation on rows of its buffers.

    Args:
        op: its name in dllama._kernels.op_table.
        src: the buffer that it reads.
        dst: the buffer that it writes.
        weight: a matrix, the vector of a norm, the number of a scale, the embedding, or what is
            added; route: to the scores, for the choice.
        layer: the layer that it belongs to, and whose keys and values it uses.
        then: what happens to the result.
        tail: whether it works only on the rows whose logits are wanted.
        kind: what its time is reported as.
        bias: a vector that a matmul or a norm adds to its result; for rope: that of the keys.
        sums: the order in which a matmul adds columns; by default from left to right. Each sum
            that remains becomes rows of dst.
        column: column of dst where a matmul's product begins, of src where a gate begins, or of
            inputs.
        inputs: for layer_gate: the buffer of what the activation is multiplied by.
        parts: for heads_matmul.
        adds: by rank, the order in which an all-reduce adds the sums of all nodes.
        begins: whether an all-reduce is the first of the pass: no earlier one has rounded.
        heads: the heads, for rope, latent, attention and gate.
        latents: for latent: the buffer with what keys and values are made of.
        delta: the heads, for delta, ssm and ssm_norm.
        ssm: for ssm and ssm_norm.
        second: for pair_sum.
        epsilon: epsilon of a norm.
        centred: whether a norm is LayerNorm, not RMSNorm.
        apart: for rope: whether each head has weights of its own for its norm.
        scale: factor, for scale.
        cap: for softcap.
        scales: for route: a vector with a factor of the weights of each expert.
        routes: the buffer that holds the experts of each row.
        shared: for experts_sum: what is added to the product with the experts. That is missing if
            src and weight are empty.
        squares: the buffer with the sums of the squares of each head, for a norm over several.
        held: by rank, two ranges of columns that a gather takes from each node.
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
    inputs: str = ""
    parts: HeadParts | None = None
    adds: tuple[tuple[int, ...], ...] = ()
    begins: bool = False
    heads: Heads | None = None
    latents: str = ""
    delta: Delta | None = None
    ssm: Scan | None = None
    second: Product | None = None
    epsilon: float = 0.0
    centred: bool = False
    apart: bool = False
    scale: float = 1.0
    cap: float = 0.0
    scales: str = ""
    routes: str = ""
    shared: SharedExpert | None = None
    squares: str = ""
    held: tuple[tuple[range, range], ...] = ()


@dataclass(frozen=True)
class Graph:
    """Everything the executor needs to run the forward pass of one node.

    Args:
        spec: the model.
        shard: what this node holds of it.
        buffers: what tasks read and write, including "logits".
        matrices: matrices of weights.
        vectors: norms and biases.
        tasks: operations, in the order in which they run.
        caches: the caches of keys and values, and of states.
        vocab_size: token ids are less than this.
    """

    spec: ModelSpec
    shard: Shard
    buffers: tuple[Buffer, ...]
    matrices: tuple[Matrix, ...]
    vectors: tuple[Vector, ...]
    tasks: tuple[Task, ...]
    caches: tuple[CacheShape, ...]
    vocab_size: int
