"""The matrices and vectors of a node: which slices of which tensors, and where they go."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from dllama.graph.graph import Matrix, TensorSlice, Vector
from dllama.graph.shard import Shard, columns_of
from dllama.model.spec import ModelSpec

# Rows of gate that lie next to as many of up.
GATED_ROWS = 32
# Rows that are packed together (dllama/_kernels/simd/tile.h).
PANEL = 16


def matrices(spec: ModelSpec, shard: Shard) -> Iterator[Matrix]:
    """The matrices that the tasks of dllama.graph.build name."""
    for layer in range(spec.n_layers):
        at = f"layers.{layer}."
        for matrix, _ in projections(spec, shard, at):
            yield matrix
        yield _whole(spec, at + "o", spec.dim, columns_of(spec, shard.heads))
        if not shard.hidden:
            continue
        if spec.layer(layer).experts:
            yield from _expert_matrices(spec, shard, at)
        else:
            yield from _gated_matrices(spec, shard, at, at, [at])
            yield _whole(spec, at + "down", spec.dim, shard.hidden)
    rows = TensorSlice("output", shard.vocab, range(spec.dim))
    yield Matrix("output", len(shard.vocab), spec.dim, (rows,), spec.type_of("output"))


def _whole(spec: ModelSpec, name: str, rows: int, cols: range) -> Matrix:
    """All rows of a tensor."""
    piece = TensorSlice(name, range(rows), cols)
    return Matrix(name, rows, len(cols), (piece,), spec.type_of(name))


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


def fused(spec: ModelSpec, prefix: str) -> bool:
    """Whether gate and up are one matrix: they have the same type."""
    return spec.type_of(prefix + "gate") is spec.type_of(prefix + "up")


def gated_width(shard: Shard) -> int:
    """Rows of gate (and of up) in the matrices of a node, of one expert: whole blocks of rows."""
    return GATED_ROWS * -(-len(shard.hidden) // GATED_ROWS)


def _gated_matrices(
    spec: ModelSpec, shard: Shard, prefix: str, name: str, prefixes: list[str]
) -> Iterator[Matrix]:
    """Gate and up in alternating blocks of rows, so that the activation finds both side by side;
    those of experts one below the other. Without the same type a matrix each.
    """
    width = gated_width(shard)
    if fused(spec, prefix):
        places, rows, block = {"gate": 0, "up": GATED_ROWS}, 2 * width, GATED_ROWS
        yield _stacked(spec, shard, name + "gate_up", prefixes, places, rows, block)
    else:
        for tensor in ("gate", "up"):
            yield _stacked(spec, shard, name + tensor, prefixes, {tensor: 0}, width)


def _stacked(
    spec: ModelSpec,
    shard: Shard,
    name: str,
    prefixes: list[str],
    places: dict[str, int],
    rows: int,
    block: int = 0,
) -> Matrix:
    """So many rows for each prefix, one below the other.

    Args:
        spec: The model.
        shard: What the node has of it.
        name: Of the matrix.
        prefixes: Of the tensors.
        places: Tensors by their last name, and their first row among those of the prefix.
        rows: For each prefix.
        block: Rows of a tensor that lie side by side; those of the other tensor follow.
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


def _expert_matrices(spec: ModelSpec, shard: Shard, at: str) -> Iterator[Matrix]:
    """The router, and gate, up and down of all experts."""
    prefixes = [f"{at}experts.{expert}." for expert in range(spec.n_experts)]
    yield _whole(spec, at + "router", spec.n_experts, range(spec.dim))
    yield from _gated_matrices(spec, shard, at + "experts.", at + "experts_", prefixes)
    yield _down_of_experts(spec, shard, at + "experts_down", prefixes)


def _down_of_experts(spec: ModelSpec, shard: Shard, name: str, prefixes: list[str]) -> Matrix:
    """Down projections one below the other, each filled up to whole panels of rows."""
    rows = PANEL * -(-spec.dim // PANEL)
    slices = [
        TensorSlice(prefix + "down", range(spec.dim), shard.hidden, index * rows)
        for index, prefix in enumerate(prefixes)
    ]
    kind = spec.type_of(slices[0].tensor)
    return Matrix(name, len(prefixes) * rows, len(shard.hidden), tuple(slices), kind)


def vectors(spec: ModelSpec, shard: Shard) -> Iterator[Vector]:
    """The norm weights and biases that the tasks of dllama.graph.build name."""
    for layer in range(spec.n_layers):
        at, parts = f"layers.{layer}.", spec.layer(layer)
        for block in ("attention", "ffn"):
            yield _norm(f"{at}{block}_norm", spec.dim)
            if parts.norms_after:
                yield _norm(f"{at}{block}_post_norm", spec.dim)
        if parts.attention.head_norms:
            heads = ((at + name, range(spec.head_dim)) for name in ("q_norm", "k_norm"))
            yield _vector(at + "qk_norm", *heads)
        if parts.attention.biases:
            yield from _biases(spec, shard, at)
    yield _norm("final_norm", spec.dim)


def _vector(name: str, *parts: tuple[str, range]) -> Vector:
    """A vector of some numbers of each tensor, one after another."""
    slices: list[TensorSlice] = []
    at = 0
    for tensor, numbers in parts:
        slices.append(TensorSlice(tensor, range(1), numbers, at))
        at += len(numbers)
    return Vector(name, tuple(slices))


def _norm(name: str, size: int) -> Vector:
    return _vector(name, (name, range(size)))


def _biases(spec: ModelSpec, shard: Shard, at: str) -> Iterator[Vector]:
    """Biases of the rows of each matrix of q, k and v."""
    for matrix, _ in projections(spec, shard, at):
        parts = ((piece.tensor + "_bias", piece.rows) for piece in matrix.slices)
        yield _vector(matrix.name + "_bias", *parts)
