"""The Python side of the transport interface: connecting and listening.

A transport connects nodes by links (dllama._kernels.comm.link.Link). The hot side of the
interface, sending and receiving, is a table of C functions, described in
dllama/_kernels/comm/link.h. A backend is one module with one TRANSPORT, an instance of a subclass
of Transport. transports/conformance.py tests everything that this interface promises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dllama._kernels.comm.link import Link


@dataclass(frozen=True)
class Launched:
    """Nodes that a launcher such as mpirun started together.

    Args:
        rank: of this process.
        addresses: of all nodes, by rank.
        sharers: how many nodes run on the processors of this one, itself included.
    """

    rank: int
    addresses: tuple[str, ...]
    sharers: int


class Listener(ABC):
    """Waits for connections of other nodes.

    Attributes:
        address: where to connect to, in the form that Transport.connect takes.
        ended: whether nobody will connect any more, since what started the nodes has ended.
    """

    address: str
    ended: bool = False

    @abstractmethod
    def accept(self, timeout: float) -> Link | None:
        """Wait for the next connection.

        Args:
            timeout: seconds.

        Returns:
            A link, or None after the timeout.

        Raises:
            ExhaustedError: there is no room for a connection now. Wait before the next attempt.
            TransportError: the listener is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop listening and remove the socket file, if any. May be called again."""

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport(ABC):
    """A way to connect nodes.

    Attributes:
        name: users select the transport by it.
        scheme: scheme of its addresses. Transports with the same scheme can connect to each other.
        local: whether only processes of this machine, or that one launcher started, can connect. If
            not, an address is HOST:PORT, with the scheme in front.
    """

    name: ClassVar[str]
    scheme: ClassVar[str]
    local: ClassVar[bool] = False

    @abstractmethod
    def listen(self, address: str) -> Listener:
        """Listen at an address.

        Raises:
            ConfigError: the address is malformed.
            TransportError: the address cannot be used.
        """

    @abstractmethod
    def connect(self, address: str, timeout: float) -> Link:
        """Connect to a listener.

        Args:
            address: where it listens.
            timeout: seconds.

        Raises:
            ConfigError: the address is malformed.
            TransportError: the connection failed.
            TransportTimeoutError: the connection took too long.
        """

    @abstractmethod
    def adopt(self, link: Link) -> Link:
        """Create a link of this transport from the connection of another link of the same scheme.

        The other link can no longer be used. TransportError if it is closed.
        """

    def local_address(self, folder: Path, rank: int) -> str:
        """Return a free address to listen at, for a node of this machine.

        Args:
            folder: a folder of the cluster's own, for socket files.
            rank: of the node.
        """
        return f"{self.scheme}://127.0.0.1:0"

    def launched(self) -> Launched | None:
        """Return the nodes that a launcher started with this process; None: nodes have no launcher.

        Raises:
            ConfigError: they need one, but none has started this process.
        """
        return None
