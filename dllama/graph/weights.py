"""Weights of a graph: read from the model file, repacked for the kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dllama._kernels.ops.matmul import PackedMatrix
from dllama.graph.graph import Graph, Matrix, TensorSlice, VectorSlice
from dllama.model.file import ModelFile, TensorInfo
from dllama.progress import byte_bar


@dataclass(frozen=True)
class Weights:
    """What the executor computes with.

    matrices: packed, by name. vectors: float32 (n,), by name. embedding: float32
    (vocab, dim), a view of the mapped file, of which only the rows in use take memory; None on
    nodes other than the root.
    """

    matrices: dict[str, PackedMatrix]
    vectors: dict[str, NDArray[np.float32]]
    embedding: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Bytes of packed matrices and vectors; the embedding stays in the file."""
        packed = sum(matrix.nbytes for matrix in self.matrices.values())
        return packed + sum(vector.nbytes for vector in self.vectors.values())


def load_weights(model: ModelFile, graph: Graph, threads: int, progress: bool = False) -> Weights:
    """Repack all matrices of the graph; pages of the file are given back as it goes."""
    total = sum(part_nbytes(model.tensors, part) for m in graph.matrices for part in m.slices)
    with byte_bar(total, "loading", progress) as bar:
        matrices = {m.name: _pack(model, m, threads, bar) for m in graph.matrices}
    vectors = {
        vector.name: np.concatenate([slice_floats(model, part) for part in vector.slices])
        for vector in graph.vectors
    }
    return Weights(matrices, vectors, model.f32("embedding"))


def weight_type_of(tensors: Mapping[str, TensorInfo], matrix: Matrix) -> int:
    """The float type of a matrix, which is that of its parts."""
    return int(tensors[matrix.slices[0].tensor].weight_type)


def slice_floats(model: ModelFile, part: VectorSlice) -> NDArray[np.float32]:
    """The numbers of a slice, float32 (n,)."""
    return model.f32(part.tensor)[part.rows.start : part.rows.stop]


def part_shape(tensors: Mapping[str, TensorInfo], part: TensorSlice) -> tuple[int, int]:
    """Rows of a part, and bytes of each."""
    weight_type = tensors[part.tensor].weight_type
    return len(part.rows), weight_type.nbytes(len(part.cols))


def part_nbytes(tensors: Mapping[str, TensorInfo], part: TensorSlice) -> int:
    """Bytes of a part as the model file holds them."""
    rows, row_bytes = part_shape(tensors, part)
    return rows * row_bytes


def part_bytes(model: ModelFile, part: TensorSlice) -> NDArray[np.uint8]:
    """The rows and columns of a part, uint8 (rows, bytes of a row), a view of the file."""
    info = model.tensors[part.tensor]
    begin = info.weight_type.nbytes(part.cols.start)
    end = info.weight_type.nbytes(part.cols.stop)
    whole = model.raw(part.tensor).reshape(info.shape[0], -1)
    return whole[part.rows.start : part.rows.stop, begin:end]


def _pack(model: ModelFile, matrix: Matrix, threads: int, bar: tqdm[NoReturn]) -> PackedMatrix:
    """One packed matrix of the tensors that make it up."""
    packed = PackedMatrix(matrix.rows, matrix.cols, weight_type_of(model.tensors, matrix))
    for part in matrix.slices:
        packed.fill(part.at, part_bytes(model, part), part.block, part.step, threads)
        model.release(part.tensor)
        bar.update(part_nbytes(model.tensors, part))
    return packed
