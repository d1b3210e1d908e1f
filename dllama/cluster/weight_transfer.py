"""Weights over the network: the root sends each worker the tensor slices of its graph.

Slices come in the order of dllama.graph.weights.walk. Each is a TENSOR message: its bytes as the
model file holds them, then their CRC-32.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.link import Link
from dllama._kernels.ops.matmul import PackedMatrix
from dllama.cluster.protocol import HEADER, Kind, receive_header
from dllama.errors import ProtocolError
from dllama.graph.graph import Graph, Matrix, TensorSlice
from dllama.graph.weights import FileSource, Progress, room, walk
from dllama.model.file import ModelFile
from dllama.model.weight_types import WeightType

CRC = struct.Struct("<I")
# Bytes that travel, and are checked and repacked, at a time.
CHUNK = 1 << 21
SAMPLE = 4096


def model_digest(model: ModelFile) -> str:
    """A name for a model file's content: its header, size, time, and a sample of every tensor."""
    status = model.path.stat()
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    digest.update(model.header)
    for name in model.tensors:
        digest.update(model.raw(name)[:SAMPLE].tobytes())
    return digest.hexdigest()


def send_weights(link: Link, model: ModelFile, graph: Graph, progress: Progress) -> None:
    """Send all weights of a graph.

    Raises:
        TransportError: The link failed.
        ProtocolError: The worker refuses.
    """
    source = FileSource(model)
    for whole, piece in walk(graph):
        for rows in source.read(piece, whole.weight_type):
            _send(link, rows, progress)


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


class LinkSource:
    """The weights that the root sends, for load of dllama.graph.weights.

    Raises ProtocolError that names the tensor that is not as expected, and TransportError.
    """

    embedding = None

    def __init__(self, link: Link) -> None:
        self.link = link

    def room(self, matrix: Matrix) -> PackedMatrix:
        """Room for a matrix, all zeros."""
        return room(matrix)

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """One TENSOR, some rows at a time, in whole blocks of the slice."""
        link, name, block = self.link, piece.tensor, piece.block or 1
        count, row_bytes = len(piece.rows), kind.nbytes(len(piece.cols))
        message, length = receive_header(link)
        if message != Kind.TENSOR or length != count * row_bytes + CRC.size:
            raise ProtocolError(
                f"{link.peer}: tensor {name}: message {message} of {length} bytes, expected "
                f"{int(Kind.TENSOR)} of {count * row_bytes + CRC.size}"
            )
        step = max(1, CHUNK // row_bytes // block) * block
        buffer = np.empty((min(step, count), row_bytes), np.uint8)
        checksum = 0
        for begin in range(0, count, step):
            rows = buffer[: min(step, count - begin)]
            link.recv_into(rows.data)
            checksum = zlib.crc32(rows.data, checksum)
            yield rows
        raw = bytearray(CRC.size)
        link.recv_into(raw)
        (expected,) = CRC.unpack(raw)
        if checksum != expected:
            raise ProtocolError(
                f"{link.peer}: tensor {name}: checksum is {checksum:#010x}, "
                f"expected {expected:#010x}"
            )
