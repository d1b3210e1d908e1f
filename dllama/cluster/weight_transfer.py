"""Weights over the network: the root sends each worker the parts its graph needs.

Parts follow each other in the order of the graph's matrices, then the vectors; each is a
TENSOR message, its bytes as the model file holds them and their CRC-32 behind. Shards of vectors
are a message each.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.link import Link
from dllama._kernels.ops.matmul import PackedMatrix
from dllama.cluster.protocol import HEADER, Kind, receive_header
from dllama.errors import ProtocolError
from dllama.graph.graph import Graph, Matrix, TensorSlice, Vector
from dllama.graph.weights import (
    Weights,
    part_bytes,
    part_nbytes,
    part_shape,
    slice_floats,
    weight_type_of,
)
from dllama.model.file import ModelFile, TensorInfo, tensor_table

CRC = struct.Struct("<I")
# Bytes that travel, and are checked and repacked, at a time.
CHUNK = 1 << 21
SAMPLE = 4096
Progress = Callable[[int], object]


def model_digest(model: ModelFile) -> str:
    """A name for a model file's content: its header, size, time, and a sample of every tensor."""
    status = model.path.stat()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    digest.update(model.header)
    for name in model.tensors:
        digest.update(model.raw(name)[:SAMPLE].tobytes())
    return digest.hexdigest()


def graph_nbytes(tensors: Mapping[str, TensorInfo], graph: Graph) -> int:
    """Bytes that send_weights sends for a graph, without messages' frames."""
    parts = sum(part_nbytes(tensors, part) for m in graph.matrices for part in m.slices)
    return parts + sum(4 * len(part.rows) for vector in graph.vectors for part in vector.slices)


def send_weights(link: Link, model: ModelFile, graph: Graph, progress: Progress) -> None:
    """Send all weights of a graph. TransportError; ProtocolError if the worker refuses."""
    for matrix in graph.matrices:
        for part in matrix.slices:
            _send(link, part_bytes(model, part), progress)
            model.release(part.tensor)
    for vector in graph.vectors:
        for piece in vector.slices:
            numbers = np.ascontiguousarray(slice_floats(model, piece))
            _send(link, numbers.view(np.uint8).reshape(1, -1), progress)


def _send(link: Link, rows: NDArray[np.uint8], progress: Progress) -> None:
    """One TENSOR of rows, uint8 (n, bytes of a row)."""
    if link.wait(0.0):
        receive_header(link)  # raises what the worker complains about
        raise ProtocolError(f"{link.peer} sent a message in the middle of the weights")
    checksum, step = 0, max(1, CHUNK // rows.shape[1])
    link.send(HEADER.pack(Kind.TENSOR, rows.size + CRC.size))
    for begin in range(0, len(rows), step):
        chunk = np.ascontiguousarray(rows[begin : begin + step])
        checksum = zlib.crc32(chunk.data, checksum)
        link.send(chunk.data)
        progress(chunk.size)
    link.send(CRC.pack(checksum))


def receive_weights(link: Link, spec_table: Mapping[str, TensorInfo], graph: Graph,
                    threads: int) -> Weights:  # fmt: skip
    """Receive and repack all weights of a graph.

    ProtocolError names the tensor that is not as expected. TransportError. MemoryError.
    """
    matrices: dict[str, PackedMatrix] = {}
    for matrix in graph.matrices:
        packed = PackedMatrix(matrix.rows, matrix.cols, weight_type_of(spec_table, matrix))
        for part in matrix.slices:
            _receive_part(link, spec_table, packed, matrix, part, threads)
        matrices[matrix.name] = packed
    vectors = {}
    for vector in graph.vectors:
        vectors[vector.name] = _receive_vector(link, vector)
    return Weights(matrices, vectors, None)


def _receive_vector(link: Link, vector: Vector) -> NDArray[np.float32]:
    """One vector, float32 (n,), slice by slice."""
    slices: list[NDArray[np.float32]] = []

    def put(at: int, rows: NDArray[np.uint8]) -> None:
        slices.append(rows[0].view("<f4").copy())

    for part in vector.slices:
        _receive(link, part.tensor, (1, 4 * len(part.rows)), put)
    return np.concatenate(slices)


def _receive_part(
    link: Link,
    tensors: Mapping[str, TensorInfo],
    packed: PackedMatrix,
    matrix: Matrix,
    part: TensorSlice,
    threads: int,
) -> None:
    """One part, repacked as it comes, in whole blocks of rows."""
    block = part.block or 1

    def put(at: int, rows: NDArray[np.uint8]) -> None:
        first = part.at + at // block * part.step if part.block else part.at + at
        packed.fill(first, rows, part.block, part.step, threads)

    _receive(link, part.tensor, part_shape(tensors, part), put, block)


def _receive(
    link: Link,
    name: str,
    shape: tuple[int, int],
    put: Callable[[int, NDArray[np.uint8]], object],
    block: int = 1,
) -> None:
    """One TENSOR of n rows, given to put(first row, rows) some at a time."""
    count, row_bytes = shape
    kind, length = receive_header(link)
    if kind != Kind.TENSOR or length != count * row_bytes + CRC.size:
        raise ProtocolError(
            f"{link.peer}: tensor {name}: message {kind} of {length} bytes, expected "
            f"{int(Kind.TENSOR)} of {count * row_bytes + CRC.size}"
        )
    step = max(1, CHUNK // row_bytes // block) * block
    room = np.empty((min(step, count), row_bytes), np.uint8)
    checksum = 0
    for begin in range(0, count, step):
        rows = room[: min(step, count - begin)]
        link.recv_into(rows.data)
        checksum = zlib.crc32(rows.data, checksum)
        put(begin, rows)
    raw = bytearray(CRC.size)
    link.recv_into(raw)
    (expected,) = CRC.unpack(raw)
    if checksum != expected:
        raise ProtocolError(
            f"{link.peer}: tensor {name}: checksum is {checksum:#010x}, expected {expected:#010x}"
        )


def table_of(graph: Graph) -> dict[str, TensorInfo]:
    """The tensors of a graph's model, as any file of it has them."""
    return tensor_table(graph.spec, 0)
