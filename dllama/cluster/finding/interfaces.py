"""This machine's network interfaces, and which of them leads to an address."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

import ifaddr

from dllama.cluster import names

DEVICES = Path("/sys/class/net")
IPV4, IPV6, LINK_LOCAL = "IPv4", "IPv6", "link-local IPv6"  # the better first
KINDS = (IPV4, IPV6, LINK_LOCAL)


@dataclass(frozen=True)
class Interface:
    """A network interface.

    Args:
        name: such as eth0.
        index: in the kernel.
        addresses: of this machine there, without zones.
    """

    name: str
    index: int
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({names.listed(self.addresses)})"


def interfaces() -> list[Interface]:
    """Return the interfaces that lead to other machines, by name."""
    found = []
    for adapter in ifaddr.get_adapters():
        texts = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in adapter.ips]
        own = tuple(text for text in texts if not ipaddress.ip_address(text).is_loopback)
        if own and adapter.index is not None and _is_up(adapter.name):
            found.append(Interface(adapter.name, adapter.index, own))
    return sorted(found, key=lambda one: one.name)


def _is_up(name: str) -> bool:
    """Whether the link of an interface is there; yes if nobody knows."""
    try:
        return (DEVICES / name / "operstate").read_text().strip() not in ("down", "lowerlayerdown")
    except OSError:
        return True


def kind_of(host: str) -> str:
    """Return which of KINDS an IP address is."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return IPV4
    return LINK_LOCAL if address.is_link_local else IPV6


def is_of_a_machine(host: str) -> bool:
    """Whether an IP address can be another machine's: no loopback, multicast or broadcast."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.version == 6 and address.ipv4_mapped is not None
    special = address.is_loopback or address.is_multicast or address.is_unspecified
    return not (mapped or special or address.is_reserved)  # reserved: broadcast is, too


def towards(host: str, known: list[Interface]) -> Interface | None:
    """Return the interface that leads to an IP address; None if there is none.

    Nothing is sent. A link-local address needs its zone.
    """
    with contextlib.suppress(OSError):
        family, kind, number, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, number) as probe:
            probe.connect(place)
            own = probe.getsockname()
        zone = own[3] if len(own) == 4 else 0
        for one in known:
            if own[0] in one.addresses and zone in (0, one.index):
                return one
    return None


def is_here(host: str, known: list[Interface]) -> bool:
    """Whether an IP address is one of this machine."""
    return any(host.partition("%")[0] in one.addresses for one in known)
