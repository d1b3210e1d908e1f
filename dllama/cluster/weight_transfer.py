"""Weights over the network: the root sends each worker the tensor slices of its graph.

Tensor slices come in the order of dllama.graph.weights.walk. Each is a TENSOR message: its bytes as
in the model file, then their CRC-32.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

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


def send_weights(link: Link, model: StoredModel, graph: Graph, progress: Progress) -> None:
    """Send all weights of a graph.

    Args:
        link: control link of the worker.
        model: the open model.
        graph: of the worker.
        progress: called with the bytes of every piece that was sent.

    Raises:
        TransportError: the link failed.
        ProtocolError: the worker refuses.
    """
    source = FileSource(model)
    for whole, piece in walk(graph):
        for rows in source.read(piece, whole.weight_type):
            _send(link, rows, progress)


def _send(link: Link, rows: NDArray[np.uint8], progress: Progress) -> None:
    """Send one TENSOR.

    Args:
        link: control link of the worker.
        rows: uint8 (n, bytes of a row).
        progress: called with the bytes of every piece that was sent.
    """
    checksum, count = 0, max(1, BYTES_AT_A_TIME // rows.shape[1])
    link.send(HEADER.pack(Kind.TENSOR, rows.size + CRC.size))
    for begin in range(0, len(rows), count):
        if link.wait(0.0):
            receive_header(link)  # raises the error that the worker reports
            raise ProtocolError(f"{link.peer} sent a message in the middle of the weights")
        some = np.ascontiguousarray(rows[begin : begin + count])
        checksum = zlib.crc32(some.data, checksum)
        link.send(some.data)
        progress(some.size)
    link.send(CRC.pack(checksum))


class LinkSource:
    """The weights that the root sends, as a source for dllama.graph.weights.load.

    Args:
        link: control link of the root.
        check: called before each piece; its errors pass through.
    """

    def __init__(self, link: Link, check: Callable[[], object] = lambda: None) -> None:
        self._check = check
        self.embeddings: dict[str, StoredRows] = {}
        self.link = link
        self.name = link.peer
        self.title = title

    def rooms(self, matrices: Sequence[Matrix]) -> dict[str, PackedMatrix]:
        """Reserve room for matrices, all zeros."""
        return rooms(matrices)

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
        link, name, block = self.link, piece.tensor, piece.block or 1
        count, row_bytes = len(piece.rows), piece.row_bytes(kind)
        message, length = receive_header(link)
        if message != Kind.TENSOR or length != count * row_bytes + CRC.size:
            raise ProtocolError(
                f"{link.peer}: tensor {name}: message {message} of {length} bytes, expected "
                f"{int(Kind.TENSOR)} of {count * row_bytes + CRC.size}"
            )
        most = max(1, BYTES_AT_A_TIME // row_bytes // block) * block
        buffer = np.empty((min(most, count), row_bytes), np.uint8)
        checksum = 0
        for begin in range(0, count, most):
            self._check()
            rows = buffer[: min(most, count - begin)]
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
