"""Weights over the network: the root sends each worker the tensor slices of its graph.

Tensor slices come in the order of dllama.graph.weights.walk. Each is a TENSOR message: its bytes as
in the model file, then their CRC-32. The bytes of all slices together are a shard.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.link import Link
from dllama._kernels.packed import PackedMatrix
from dllama._kernels.weight_types import StoredRows
from dllama.cluster.protocol import HEADER, Kind, receive_header
from dllama.errors import ProtocolError
from dllama.graph.graph import Graph, Matrix, TensorSlice
from dllama.graph.weights import FileSource, Progress, rooms, title, walk
from dllama.model.header import write_header
from dllama.model.stored_model import StoredModel
from dllama.model.weight_types import WeightType

CRC = struct.Struct("<I")
BYTES_AT_A_TIME = 1 << 21  # that are sent, checked and repacked
SAMPLES, SAMPLE = 256, 4096  # of a file in a digest, and bytes of each
Seen = Callable[[memoryview], object]  # called with every piece of a shard, in order


def nobody(piece: memoryview) -> None:
    """Take no notice of a piece."""


def model_digest(model: StoredModel) -> str:
    """Return a name for a model's content: a hash of its spec, and of the size, the time and
    samples of each file.
    """
    digest = hashlib.blake2b(write_header(model.spec, model.path), digest_size=16)
    for path in model.files:
        status = path.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            for begin in range(0, status.st_size, max(SAMPLE, status.st_size // SAMPLES)):
                file.seek(begin)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def send_weights(
    link: Link, model: StoredModel, graph: Graph, progress: Progress, seen: Seen = nobody
) -> None:
    """Send all weights of a graph.

    Args:
        link: control link of the worker.
        model: the open model.
        graph: of the worker.
        progress: called with the number of bytes of every piece that was sent.
        seen: called with the bytes themselves.

    Raises:
        TransportError: the link failed.
        ProtocolError: the worker refuses.
    """
    source = FileSource(model)
    for whole, piece in walk(graph):
        for rows in source.read(piece, whole.weight_type):
            _send(link, rows, progress, seen)


def _send(link: Link, rows: NDArray[np.uint8], progress: Progress, seen: Seen) -> None:
    """Send one TENSOR of rows, uint8 (n, bytes of a row); the rest is as in send_weights."""
    checksum, count = 0, max(1, BYTES_AT_A_TIME // rows.shape[1])
    link.send(HEADER.pack(Kind.TENSOR, rows.size + CRC.size))
    for begin in range(0, len(rows), count):
        if link.wait(0.0):
            receive_header(link)  # raises the error that the worker reports
            raise ProtocolError(f"{link.peer} sent a message in the middle of the weights")
        some = np.ascontiguousarray(rows[begin : begin + count])
        checksum = zlib.crc32(some.data, checksum)
        link.send(some.data)
        seen(some.data)
        progress(some.size)
    link.send(CRC.pack(checksum))


def pieces(piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
    """Yield room for the rows of a slice: uint8 (n, bytes of a row), whole blocks of the slice."""
    count, row_bytes, block = len(piece.rows), piece.row_bytes(kind), piece.block or 1
    most = max(1, BYTES_AT_A_TIME // row_bytes // block) * block
    buffer = np.empty((min(most, count), row_bytes), np.uint8)
    for begin in range(0, count, most):
        yield buffer[: min(most, count - begin)]


class ShardSource:
    """What sources of a worker's shard share, for dllama.graph.weights.load.

    Args:
        name: the peer or file, for messages.
    """

    def __init__(self, name: Any) -> None:
        self.embeddings: dict[str, StoredRows] = {}
        self.name = name
        self.title = title

    def rooms(self, matrices: Sequence[Matrix]) -> dict[str, PackedMatrix]:
        """Reserve room for matrices, all zeros."""
        return rooms(matrices)


class LinkSource(ShardSource):
    """The weights that the root sends.

    Args:
        link: control link of the root.
        seen: called with the bytes of every piece.
    """

    def __init__(self, link: Link, seen: Seen = nobody) -> None:
        super().__init__(link.peer)
        self._link = link
        self._seen = seen

    def read(self, piece: TensorSlice, kind: WeightType) -> Iterator[NDArray[np.uint8]]:
        """Receive one TENSOR.

        Args:
            piece: the tensor slice that it must be.
            kind: its weight type.

        Yields:
            uint8 (n, bytes of a row): the next rows, in whole blocks of the slice, valid until the
            next ones are asked for.

        Raises:
            ProtocolError: size or checksum are wrong; the message names the tensor.
            TransportError: the link failed.
        """
        link, name = self._link, piece.tensor
        nbytes = len(piece.rows) * piece.row_bytes(kind)
        message, length = receive_header(link)
        if message != Kind.TENSOR or length != nbytes + CRC.size:
            raise ProtocolError(
                f"{link.peer}: tensor {name}: message {message} of {length} bytes, expected "
                f"{int(Kind.TENSOR)} of {nbytes + CRC.size}"
            )
        checksum = 0
        for rows in pieces(piece, kind):
            link.recv_into(rows.data)
            checksum = zlib.crc32(rows.data, checksum)
            self._seen(rows.data)
            yield rows
        raw = bytearray(CRC.size)
        link.recv_into(raw)
        (expected,) = CRC.unpack(raw)
        if checksum != expected:
            raise ProtocolError(
                f"{link.peer}: tensor {name}: checksum is {checksum:#010x}, "
                f"expected {expected:#010x}"
            )
