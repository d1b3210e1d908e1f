"""Which machine announces which services: the answers of multicast DNS with their senders.

zeroconf does not tell senders, so this reads the same packets. A sender is the source address of a
packet. It can be forged, too, but not by only making up announcements; docs/security.md says what
that leads to.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from zeroconf import DNSIncoming, DNSPointer  # type: ignore[attr-defined]

from dllama.cluster.finding.interfaces import Interface

PORT = 5353
GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
PACKET = 9000  # bytes of the longest packet
PACKETS = 64  # that are read at a time
WAITING = 1 << 20  # bytes that may wait to be read
MAX_SERVICES = 256
MAX_OF_ONE = 32  # services of one sender


class Crowd:
    """The services that were heard of: limited in number, by sender and in all.

    So who announces many does not crowd out others.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._brought: Counter[str] = Counter()

    def admits(self, name: str, sender: str) -> bool:
        """Add a service, if it is new and there is room for one of this sender."""
        name = name.lower()
        full = len(self._names) >= MAX_SERVICES or self._brought[sender] >= MAX_OF_ONE
        if full or name in self._names:
            return False
        self._names.add(name)
        self._brought[sender] += 1
        return True


class Senders:
    """Hears who announces services of a kind, from its creation on.

    Args:
        kind: such as _dllama._tcp.local.
        places: interfaces to listen on.

    Raises:
        OSError: the port of multicast DNS cannot be shared.
    """

    def __init__(self, kind: str, places: Sequence[Interface]) -> None:
        self._kind = kind
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                if own := [one for one in places if _addresses(one, family)]:
                    self._sockets.append(_open(family, own))
                    self._selector.register(self._sockets[-1], selectors.EVENT_READ)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Hear no more."""
        self._selector.close()
        for one in self._sockets:
            one.close()

    def heard(self, seconds: float) -> Iterator[tuple[str, str]]:
        """Yield names of services and who announces them, waiting for the first packet."""
        self._selector.select(seconds)
        for one in self._sockets:
            with contextlib.suppress(OSError):  # there is no more
                for _ in range(PACKETS):
                    packet, place = one.recvfrom(PACKET)
                    for name in pointers(packet, self._kind):
                        yield name, place[0]


def pointers(packet: bytes, kind: str) -> list[str]:
    """Return the names of services of a kind that a packet announces; [] for any other packet."""
    message = DNSIncoming(packet)
    if not message.valid or not message.is_response():
        return []
    return [
        one.alias
        for one in message.answers()
        if isinstance(one, DNSPointer) and one.ttl and one.name.lower() == kind
    ]


def _addresses(place: Interface, family: int) -> list[str]:
    return [ip for ip in place.addresses if (":" in ip) == (family == socket.AF_INET6)]


def _open(family: int, places: Sequence[Interface]) -> socket.socket:
    """Open a socket that gets what is sent to all on some interfaces, as other programs do."""
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WAITING)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(("", PORT))
        for place in places:
            with contextlib.suppress(OSError):  # an interface without multicast
                _join(opened, place)
    except OSError:
        opened.close()
        raise
    return opened


def _join(opened: socket.socket, place: Interface) -> None:
    """Get what is sent to all on an interface."""
    if opened.family == socket.AF_INET6:
        group = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", place.index)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    else:
        own = socket.inet_aton(_addresses(place, socket.AF_INET)[0])
        group = socket.inet_aton(GROUP4) + own
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
