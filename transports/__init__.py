"""Transports connect nodes; each is selected by name.

Other packages can add transports with the entry-point group "dllama.transports". The name of the
entry is the name of the transport, its object an instance of Transport (dllama.transports.base).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

from dllama.errors import ConfigError
from dllama.transports.base import Launched, Listener, Transport
from dllama.transports.sockets import parse_tcp

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = [
    "BUILTIN", "LAUNCHED", "Launched", "Listener", "Transport", "get", "is_public", "names",
    "of_address", "scheme_of",
]  # fmt: skip

BUILTIN = ("blocking", "nonblocking", "unix")
LAUNCHED = ("mpi",)  # a launcher starts the nodes of these
GROUP = "dllama.transports"
DEFAULT_SCHEME = "tcp"


def names() -> list[str]:
    """Return the names of all installed transports, the built-in ones first."""
    return list(_each_name())


def _each_name() -> Iterator[str]:
    """Yield all names; other packages are searched only after the names of this one."""
    own = (*BUILTIN, *LAUNCHED)
    yield from own
    yield from sorted({entry.name for entry in _entries()} - set(own))


def get(name: str) -> Transport:
    """Return the transport with a name; ConfigError lists the names that exist."""
    if name in (*BUILTIN, *LAUNCHED):
        return _checked(import_module(f"{__name__}.{name}").TRANSPORT, name)
    for entry in _entries().select(name=name):
        try:
            found = entry.load()
        except Exception as error:
            raise ConfigError(f"transport {name}: cannot load {entry.value}: {error}") from error
        return _checked(found, name)
    raise ConfigError(f"transport is {name!r}, expected one of {', '.join(names())}")


def _entries() -> EntryPoints:
    """Return the transports of other packages."""
    from importlib.metadata import entry_points  # takes a while to load

    return entry_points(group=GROUP)


def scheme_of(address: str) -> str:
    """Return what stands before "://" in an address, "unix" for unix:/path, or else "tcp"."""
    before, found, _ = address.partition("://")
    if found:
        return before
    return "unix" if address.startswith("unix:") else DEFAULT_SCHEME


def of_address(address: str) -> Transport:
    """Return the first transport for the scheme of an address; ConfigError if there is none."""
    scheme = scheme_of(address)
    for name in _each_name():
        if (transport := get(name)).scheme == scheme:
            return transport
    raise ConfigError(f"address is {address!r}: no transport has the scheme {scheme!r}")


def is_public(address: str) -> bool:
    """Whether other machines can reach a listener at this address."""
    if of_address(address).local:
        return False
    host, _ = parse_tcp(address.partition("://")[2] or address)
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _checked(found: object, name: str) -> Transport:
    if not isinstance(found, Transport):
        raise ConfigError(f"transport {name}: {found!r} is not a dllama.transports.Transport")
    return found
