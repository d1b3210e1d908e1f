"""What a transport is: the cold half of the interface.

A transport connects nodes by links (dllama._kernels.comm.link.Link). Its hot half is the C table
of its links, which dllama/_kernels/link.h describes. A backend is one module with one
TRANSPORT, an object of a subclass of Transport. transports/conformance.py tests all
that is promised here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from dllama._kernels.comm.link import Link


class Listener(ABC):
    """Waits for other nodes to connect."""

    address: str
    """Where to connect to, as Transport.connect takes it."""

    @abstractmethod
    def accept(self, timeout: float) -> Link | None:
        """The next connection, or None if there is none within so many seconds.

        TransportError once the listener is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop listening and remove what was put into the file system; idempotent."""

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport(ABC):
    """A way to connect nodes."""

    name: ClassVar[str]
    """What users select it by."""
    scheme: ClassVar[str]
    """The scheme of its addresses; transports of one scheme can connect to each other."""

    @abstractmethod
    def listen(self, address: str) -> Listener:
        """Listen at an address of the scheme. ConfigError for what is not one,
        TransportError where nobody may listen."""

    @abstractmethod
    def connect(self, address: str, timeout: float) -> Link:
        """Connect to a listener. ConfigError for what is not an address, TransportError, or
        TransportTimeoutError after so many seconds."""

    @abstractmethod
    def adopt(self, link: Link) -> Link:
        """A link of this transport over the connection of a link of the same scheme, which is
        given up. TransportError if it is closed."""
