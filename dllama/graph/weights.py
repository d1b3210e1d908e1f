"""Weights of a graph: read from a source, and repacked for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.ops.matmul import PackedMatrix
from dllama._kernels.weight_types import StoredRows
from dllama.graph.graph import Graph, Matrix, TensorSlice, Vector
from dllama.model.file import ModelFile
from dllama.model.weight_types import WeightType

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Weights:
    """What the executor computes with.

    matrices: packed, by name. vectors: float32 (n,), by name. embedding: a view of the mapped
    file, of which only the rows in use take memory; None on nodes other than the root.
    """

    matrices: dict[str, PackedMatrix]
    vectors: dict[str, NDArray[np.float32]]
    embedding: StoredRows | None

    @property
    def nbytes(self) -> int:
        """Bytes of packed matrices and vectors; the embedding stays in the file."""
        packed = sum(matrix.nbytes for matrix in self.matrices.values())
        return packed + sum(vector.nbytes for vector in self.vectors.values())


class Source(Protocol):
    """Where the weights of a graph come from."""

    @property
    def embedding(self) -> StoredRows | None:
        """A row for each token, or None where the graph has no use for them."""

    def room(self, matrix: Matrix) -> PackedMatrix:
        """Room for a matrix, all zeros."""

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """The rows of a tensor slice as a model file holds them, in whole blocks of the slice.

        Slices are read in the order of walk. A source that gives none leaves zeros.

        Yields:
            uint8 (rows, bytes of a row), valid until the next.
        """


def walk(graph: Graph) -> Iterator[tuple[Matrix | Vector, TensorSlice]]:
    """All tensor slices of a graph with what they go into, in the order in which they travel."""
    wholes: tuple[Matrix | Vector, ...] = (*graph.matrices, *graph.vectors)
    for whole in wholes:
        for piece in whole.slices:
            yield whole, piece


def graph_nbytes(graph: Graph) -> int:
    """Bytes of all tensor slices of a graph as model files hold them."""
    return sum(
        len(piece.rows) * whole.weight_type.nbytes(len(piece.cols)) for whole, piece in walk(graph)
    )


def load(
    graph: Graph, source: Source, threads: int = 1, progress: Progress = lambda count: None
) -> Weights:
    """Repack all weights of a graph.

    Args:
        graph: The graph of a node.
        source: What gives the rows; its errors pass through.
        threads: How many repack.
        progress: Called with the bytes of the rows that were repacked.

    Raises:
        MemoryError: The weights do not fit.
    """
    matrices = {matrix.name: source.room(matrix) for matrix in graph.matrices}
    vectors = {vector.name: np.zeros(vector.size, np.float32) for vector in graph.vectors}
    for whole, piece in walk(graph):
        first = 0
        for rows in source.read(piece, whole.weight_type):
            if isinstance(whole, Matrix):
                _fill(matrices[whole.name], piece, first, rows, threads)
            else:
                vectors[whole.name][piece.at : piece.at + len(piece.cols)] = rows[0].view("<f4")
            first += len(rows)
            progress(rows.size)
    return Weights(matrices, vectors, source.embedding)


def _fill(
    matrix: PackedMatrix, piece: TensorSlice, first: int, rows: NDArray[np.uint8], threads: int
) -> None:
    """Put the rows of a slice from its row `first` on, the first of a block."""
    after = first // piece.block * piece.step if piece.block else first
    matrix.fill(piece.at + after, rows, piece.block, piece.step, threads)


def room(matrix: Matrix) -> PackedMatrix:
    """Room for a matrix, all zeros."""
    return PackedMatrix(matrix.rows, matrix.cols, int(matrix.weight_type))


class FileSource:
    """A model file on this machine; its pages are given back as it is read."""

    def __init__(self, model: ModelFile) -> None:
        self.model = model

    @property
    def embedding(self) -> StoredRows:
        """A row for each token, a view of the file."""
        return self.model.stored("embedding")

    def room(self, matrix: Matrix) -> PackedMatrix:
        """Room for a matrix, all zeros."""
        return room(matrix)

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """All rows of a slice at once, a view of the file."""
        columns = slice(kind.nbytes(piece.cols.start), kind.nbytes(piece.cols.stop))
        whole = self.model.rows(piece.tensor)
        yield whole[piece.rows.start : piece.rows.stop, columns]
        self.model.release(piece.tensor)
