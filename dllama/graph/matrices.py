"""The matrices of a node: which slices of which tensors, and where they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from dllama.graph.graph import Matrix, TensorSlice
from dllama.graph.shard import Shard
from dllama.model.spec import ModelSpec

# Rows of gate that lie next to as many of up.
GATED_ROWS = 32
# Rows that are packed together (dllama/_kernels/simd/tile.h).
PANEL = 16


def whole(spec: ModelSpec, name: str, rows: range, cols: range) -> Matrix:
    """Some rows and columns of one tensor."""
    piece = TensorSlice(name, rows, cols)
    return Matrix(name, len(rows), len(cols), (piece,), spec.type_of(name))


def projections(spec: ModelSpec, shard: Shard, at: str) -> Iterator[tuple[Matrix, int]]:
    """Rows of q, k and v, one below the other, as one matrix for each stretch of one type.

    Yields:
        The matrix, and the number of rows before its first.
    """
    before = 0
    for kind, run in groupby("qkv", lambda letter: spec.type_of(at + letter)):
        letters = "".join(run)
        slices: list[TensorSlice] = []
        rows = 0
        for letter in letters:
            held = _head_rows(spec, shard, letter)
            slices.append(TensorSlice(at + letter, held, range(spec.dim), rows))
            rows += len(held)
        yield Matrix(at + letters, rows, spec.dim, tuple(slices), kind), before
        before += rows


def _head_rows(spec: ModelSpec, shard: Shard, letter: str) -> range:
    """The rows of q, k or v that a node has."""
    heads = shard.heads if letter == "q" else shard.kv_heads
    return range(heads.start * spec.head_dim, heads.stop * spec.head_dim)


def gated_width(shard: Shard) -> int:
    """Rows of gate (and of up) in the matrices of a node, of one expert: whole blocks of rows."""
    return GATED_ROWS * -(-len(shard.hidden) // GATED_ROWS)


def gated(spec: ModelSpec, shard: Shard, name: str, prefixes: Sequence[str]) -> list[Matrix]:
    """Gate and up of a feed-forward network, or of all experts.

    Where both have the same type they are one matrix of alternating blocks of rows, so that the
    activation finds both side by side; else gate is a matrix and up is another.

    Args:
        spec: the model.
        shard: what the node has of it.
        name: of the matrix, without `gate_up`, `gate` or `up`.
        prefixes: of the tensors of each expert.
    """
    width = gated_width(shard)
    if spec.type_of(prefixes[0] + "gate") is spec.type_of(prefixes[0] + "up"):
        places = {"gate": 0, "up": GATED_ROWS}
        return [_stacked(spec, shard, name + "gate_up", prefixes, places, 2 * width, GATED_ROWS)]
    return [
        _stacked(spec, shard, name + tensor, prefixes, {tensor: 0}, width)
        for tensor in ("gate", "up")
    ]


def _stacked(
    spec: ModelSpec,
    shard: Shard,
    name: str,
    prefixes: Sequence[str],
    places: dict[str, int],
    rows: int,
    block: int = 0,
) -> Matrix:
    """So many rows for each prefix, one below the other.

    Args:
        spec: the model.
        shard: what the node has of it.
        name: of the matrix.
        prefixes: of the tensors.
        places: tensors by their last name, and their first row among those of the prefix.
        rows: for each prefix.
        block: rows of a tensor that lie side by side; those of the other tensor follow.
    """
    slices = [
        TensorSlice(
            prefix + tensor, shard.hidden, range(spec.dim), index * rows + at, block, 2 * block
        )
        for index, prefix in enumerate(prefixes)
        for tensor, at in places.items()
    ]
    kind = spec.type_of(slices[0].tensor)
    return Matrix(name, len(prefixes) * rows, spec.dim, tuple(slices), kind)


def down_of_experts(spec: ModelSpec, shard: Shard, name: str, prefixes: Sequence[str]) -> Matrix:
    """Down projections one below the other, each filled up to whole panels of rows."""
    rows = PANEL * -(-spec.dim // PANEL)
    slices = [
        TensorSlice(prefix + "down", range(spec.dim), shard.hidden, index * rows)
        for index, prefix in enumerate(prefixes)
    ]
    kind = spec.type_of(slices[0].tensor)
    return Matrix(name, len(prefixes) * rows, len(shard.hidden), tuple(slices), kind)
