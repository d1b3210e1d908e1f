"""The matrices of a node: the tensor slices that each is assembled from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from dllama.graph.graph import Matrix, TensorSlice
from dllama.graph.shard import LinearHeads
from dllama.model.layer import Attention
from dllama.model.spec import ModelSpec

# Blocks of this many rows of gate and of up alternate in a fused matrix.
GATED_ROWS = 32
# Rows of a panel (dllama/_kernels/simd/tile.h).
PANEL = 16


def whole(spec: ModelSpec, name: str, rows: range, cols: range) -> Matrix:
    """A matrix of some rows and columns of one tensor."""
    piece = TensorSlice(name, rows, cols)
    return Matrix(name, len(rows), len(cols), (piece,), spec.type_of(name))


def projections(
    spec: ModelSpec, at: str, kind: Attention, heads: range, kv_heads: range
) -> Iterator[tuple[Matrix, int]]:
    """The node's rows of q, k and v, and of the gate, as far as the layer has them, stacked.

    Yields:
        A matrix, and the number of rows in the matrices before it.
    """
    queries, keys = (numbers_of(some, kind.size) for some in (heads, kv_heads))
    held = {name: keys if name in ("k", "v") else queries for name in kind.projections}
    return stacked(spec, at, held)


def linear_projections(spec: ModelSpec, held: LinearHeads, at: str) -> Iterator[tuple[Matrix, int]]:
    """The node's rows of all projections of linear attention, as `projections`."""
    sizes = spec.linear_sizes
    keys = numbers_of(held.key_heads, sizes.key_dim)
    values = numbers_of(held.heads, sizes.value_dim)
    if sizes.ssm:
        read = {"linear_v": values, "linear_k": keys, "linear_q": keys}
        return stacked(spec, at, {**read, "linear_z": values, "decay": held.heads})
    wide = {"linear_q": keys, "linear_k": keys, "linear_v": values, "linear_z": values}
    return stacked(spec, at, {**wide, "beta": held.heads, "decay": held.heads})


def stacked(spec: ModelSpec, at: str, held: Mapping[str, range]) -> Iterator[tuple[Matrix, int]]:
    """Rows of several tensors, stacked. Neighbours of the same type share a matrix.

    Args:
        spec: the model.
        at: prefix of the tensors.
        held: the rows of each tensor.

    Yields:
        A matrix, and the number of rows in the matrices before it.
    """
    before = 0
    for kind, run in groupby(held, lambda name: spec.type_of(at + name)):
        names = [*run]
        slices: list[TensorSlice] = []
        rows = 0
        for name in names:
            slices.append(TensorSlice(at + name, held[name], range(spec.dim), rows))
            rows += len(held[name])
        yield Matrix(at + "".join(names), rows, spec.dim, tuple(slices), kind), before
        before += rows


def of_heads(spec: ModelSpec, name: str, heads: range, rows: int, cols: int) -> Matrix:
    """The matrices of some heads, each of `rows` rows of the tensor, padded to whole panels."""
    padded = PANEL * -(-rows // PANEL)
    block = rows if padded != rows else 0
    held = range(heads.start * rows, heads.stop * rows)
    piece = TensorSlice(name, held, range(cols), 0, block, padded)
    return Matrix(name, len(heads) * padded, cols, (piece,), spec.type_of(name))


def numbers_of(heads: range, size: int) -> range:
    """The numbers of some heads in a row of all heads."""
    return range(heads.start * size, heads.stop * size)


def gated_width(hidden: range) -> int:
    """Rows of gate (and of up) of one expert in the matrices of a node, rounded up to blocks."""
    return GATED_ROWS * -(-len(hidden) // GATED_ROWS)


def gated(
    spec: ModelSpec, hidden: range, name: str, prefixes: Sequence[str], apart: bool = False
) -> list[Matrix]:
    """Gate and up of a feed-forward network, or of all experts.

    If both have the same type, they are one matrix of alternating blocks of rows, so that the
    activation finds both next to each other. Otherwise they are two matrices.

    Args:
        spec: the model.
        hidden: the units that the node holds.
        name: name of the matrix, to which `gate_up`, `gate` or `up` is appended.
        prefixes: prefixes of tensor names, one for each expert.
        apart: whether they are two matrices anyway.
    """
    width = gated_width(hidden)
    same = spec.type_of(prefixes[0] + "gate") is spec.type_of(prefixes[0] + "up")
    if same and not apart:
        places = {"gate": 0, "up": GATED_ROWS}
        return [
            _alternating(spec, hidden, name + "gate_up", prefixes, places, 2 * width, GATED_ROWS)
        ]
    return [
        _alternating(spec, hidden, name + tensor, prefixes, {tensor: 0}, width)
        for tensor in ("gate", "up")
    ]


def _alternating(
    spec: ModelSpec,
    hidden: range,
    name: str,
    prefixes: Sequence[str],
    places: dict[str, int],
    rows: int,
    block: int = 0,
) -> Matrix:
    """A matrix of the tensors of all prefixes, stacked.

    Args:
        spec: the model.
        hidden: the units that the node holds.
        name: name of the matrix.
        prefixes: prefixes of tensor names.
        places: by the last word of a tensor's name, its first row within the rows of a prefix.
        rows: rows of the matrix for each prefix.
        block: if not 0, two tensors alternate in blocks of this many rows.
    """
    slices = [
        TensorSlice(prefix + tensor, hidden, range(spec.dim), index * rows + at, block, 2 * block)
        for index, prefix in enumerate(prefixes)
        for tensor, at in places.items()
    ]
    kind = spec.type_of(slices[0].tensor)
    return Matrix(name, len(prefixes) * rows, spec.dim, tuple(slices), kind)


def down_of_experts(spec: ModelSpec, hidden: range, name: str, prefixes: Sequence[str]) -> Matrix:
    """The down projections of all experts, stacked, each padded to whole panels."""
    rows = PANEL * -(-spec.dim // PANEL)
    slices = [
        TensorSlice(prefix + "down", range(spec.dim), hidden, index * rows)
        for index, prefix in enumerate(prefixes)
    ]
    kind = spec.type_of(slices[0].tensor)
    return Matrix(name, len(prefixes) * rows, len(hidden), tuple(slices), kind)
