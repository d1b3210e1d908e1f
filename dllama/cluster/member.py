"""A worker as the root knows it."""

from __future__ import annotations

from dllama._kernels.comm.link import Link
from dllama.cluster import names, protocol
from dllama.cluster.protocol import Kind
from dllama.errors import ProtocolError


class Member:
    """A worker of a cluster.

    Attributes:
        rank: from 1 on.
        address: where the worker listens.
        control: the link for messages.
        given_name: what the worker calls itself, "" for nothing.
        memory: bytes of weights, kv_cache and buffers.
        clock: nanoseconds that the worker's clock is ahead of the root's.
        vocab: ids of the worker's vocabulary shard.
    """

    def __init__(self, rank: int, address: str, control: Link, name: str = "") -> None:
        self.rank = rank
        self.address = address
        self.control = control
        self.given_name = name
        self.memory: dict[str, int] = {}
        self.clock = 0
        self.vocab = range(0)

    @property
    def name(self) -> str:
        """What messages call this worker."""
        return names.worker(self.rank, self.given_name, self.address)

    def receive(self, kind: Kind, size: int) -> bytearray:
        """Receive a message.

        Args:
            kind: its kind.
            size: bytes that its content must have.

        Raises:
            ProtocolError: it is of another kind or size.
            NodeError: the worker reports a failure.
            TransportError: the link failed.
        """
        content = protocol.receive(self.control, kind, size)
        if len(content) != size:
            raise ProtocolError(
                f"{self.name}: {kind.name} of {len(content)} bytes, expected {size}"
            )
        return content
