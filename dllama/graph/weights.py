"""Weights of a graph, read from a source and packed for the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.packed import PackedMatrix, Pool, packed_nbytes
from dllama._kernels.weight_types import StoredRows
from dllama.errors import FormatError
from dllama.graph.graph import Graph, Matrix, TensorSlice, Vector
from dllama.model.stored_model import StoredModel
from dllama.model.weight_types import WeightType

Progress = Callable[[int], object]
BYTES_AT_A_TIME = 1 << 24  # that are packed; signals are heeded in between


@dataclass(frozen=True)
class Weights:
    """The weights that the executor computes with.

    Args:
        matrices: packed matrices by name.
        vectors: float32 (n,) by name.
        embeddings: by tensor, views of the mapped file, so that only rows in use take memory; none
            on nodes other than the root.
    """

    matrices: dict[str, PackedMatrix]
    vectors: dict[str, NDArray[np.float32]]
    embeddings: dict[str, StoredRows]

    @property
    def nbytes(self) -> int:
        """Bytes of packed matrices and vectors; embeddings stay in the file."""
        packed = sum(matrix.nbytes for matrix in self.matrices.values())
        return packed + sum(vector.nbytes for vector in self.vectors.values())


class Source(Protocol):
    """Where the weights of a graph come from."""

    @property
    def embeddings(self) -> dict[str, StoredRows]:
        """By tensor, the embeddings that the graph looks up rows of."""

    @property
    def name(self) -> object:
        """The file or peer, for messages."""

    @property
    def title(self) -> Callable[[str, WeightType], str]:
        """What messages call a tensor of a type."""

    def rooms(self, matrices: Sequence[Matrix]) -> dict[str, PackedMatrix]:
        """Empty matrices of zeros to fill, by name."""

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """The rows of a tensor slice as stored in model files, in whole blocks of the slice.

        Columns that are cut out of a block of the type come with the whole block. Slices are read
        in the order of walk. A source that yields nothing leaves zeros.

        Yields:
            uint8 (rows, bytes per row), valid until the next is read.
        """


def title(tensor: str, kind: WeightType) -> str:
    """Name and type of a tensor, as model files call them."""
    return f"{tensor} ({kind.name.lower()})"


def walk(graph: Graph) -> Iterator[tuple[Matrix | Vector, TensorSlice]]:
    """All tensor slices of a graph, each with its matrix or vector.

    A weight transfer sends slices in this order.
    """
    wholes: tuple[Matrix | Vector, ...] = (*graph.matrices, *graph.vectors)
    for whole in wholes:
        for piece in whole.slices:
            yield whole, piece


def graph_nbytes(graph: Graph) -> int:
    """Bytes of all tensor slices of a graph as stored in model files."""
    return sum(len(piece.rows) * piece.row_bytes(whole.weight_type) for whole, piece in walk(graph))


def load(
    graph: Graph, source: Source, threads: int = 1, progress: Progress = lambda count: None
) -> Weights:
    """Read and pack all weights of a graph.

    Args:
        graph: the graph of a node.
        source: where rows come from; its errors pass through.
        threads: how many threads pack.
        progress: called with the number of bytes read after each piece.

    Raises:
        MemoryError: the weights do not fit into memory.
        FormatError: a number, or a scale of quantised weights, is not finite.
    """
    matrices = source.rooms(graph.matrices)
    vectors = {vector.name: np.zeros(vector.size, np.float32) for vector in graph.vectors}
    for whole, piece in walk(graph):
        first = 0
        for rows in source.read(piece, whole.weight_type):
            if isinstance(whole, Matrix):
                matrix = matrices[whole.name]
                parts = _parts(rows, piece.block or 1)
                finite = all(
                    _fill(matrix, piece, first + begin, rows[begin:end], threads)
                    for begin, end in parts
                )
            else:
                numbers = rows[0].view("<f4")
                finite = bool(np.isfinite(numbers).all())
                vectors[whole.name][piece.at : piece.at + len(piece.cols)] = numbers
            if not finite:
                part = "scale" if whole.weight_type.block_size > 1 else "number"
                what = f"a {part} of {source.title(piece.tensor, whole.weight_type)}"
                raise FormatError(source.name, what, "not finite", "finite numbers")
            first += len(rows)
            progress(rows.size)
    return Weights(matrices, vectors, source.embeddings)


def _parts(rows: NDArray[np.uint8], block: int) -> Iterator[tuple[int, int]]:
    """Cut rows into parts of whole blocks, the first row and the end of each."""
    count = max(1, BYTES_AT_A_TIME // rows.shape[1] // block) * block
    for begin in range(0, len(rows), count):
        yield begin, min(len(rows), begin + count)


def _fill(
    matrix: PackedMatrix, piece: TensorSlice, first: int, rows: NDArray[np.uint8], threads: int
) -> bool:
    """Pack rows of a slice, of which the first is row `first` of the slice and begins a block.

    Returns:
        Whether all numbers or scales are finite.
    """
    offset = first // piece.block * piece.stride if piece.block else first
    return matrix.fill(piece.at + offset, rows, piece.block, piece.stride, threads)


def rooms(matrices: Sequence[Matrix]) -> dict[str, PackedMatrix]:
    """Empty matrices of zeros to fill, by name, in one piece of memory."""
    sizes = [(one.rows, one.cols, int(one.weight_type), one.skip) for one in matrices]
    pool = Pool(sum(packed_nbytes(*size) for size in sizes))
    return {one.name: PackedMatrix(*size, pool) for one, size in zip(matrices, sizes, strict=True)}


def embeddings_of(model: StoredModel) -> dict[str, StoredRows]:
    """The matrices of a model that tasks look up rows of, by tensor."""
    names = ("embedding", "layer_embedding")
    return {name: model.stored(name) for name in names if name in model.tensors}


class FileSource:
    """A model on this machine. Pages that have been read are released."""

    def __init__(self, model: StoredModel) -> None:
        self.model = model
        self.name = model.path

    @property
    def embeddings(self) -> dict[str, StoredRows]:
        """By tensor, views of the file with a row for each token."""
        return embeddings_of(self.model)

    def title(self, tensor: str, kind: WeightType) -> str:
        """Name and type of a tensor, as its file calls them."""
        return self.model.title(tensor)

    def rooms(self, matrices: Sequence[Matrix]) -> dict[str, PackedMatrix]:
        """Empty matrices of zeros to fill, by name."""
        return rooms(matrices)

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """All rows of a slice at once, a view of the file."""
        begin = kind.nbytes(kind.covering(piece.cols).start)
        columns = slice(begin, begin + piece.row_bytes(kind))
        whole = self.model.rows(piece.tensor)
        yield whole[piece.rows.start : piece.rows.stop, columns]
        self.model.release(piece.tensor)
