"""Making a worker known on the local network (multicast DNS, RFC 6762 and 6763).

The announcement is public. It has a name, addresses and the version of the protocol, nothing else:
who wants to know more asks the worker (about.py), which asks for the secret.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable

from zeroconf import Error, InterfaceChoice, IPVersion, ServiceInfo, Zeroconf

from dllama.cluster import names
from dllama.cluster.finding.interfaces import Interface, interfaces
from dllama.cluster.protocol import VERSION
from dllama.transports.sockets import parse_tcp

log = logging.getLogger("dllama.worker")

SERVICE = "_dllama._tcp.local."
TICK = 0.1  # seconds between looks at whether the worker has stopped
LOOK = 3.0  # seconds between looks at whether this machine's addresses have changed
LEAVING = 2.0  # seconds that the goodbye may take


class Announcement:
    """Announces a worker until it is closed, with the addresses that this machine has by then.

    A name that another worker has gets a number.

    Args:
        name: of the worker.
        address: where it listens.
        renamed: told the name that others know, whenever it has changed.
        over: whether the worker has stopped, which ends the announcement too.
    """

    def __init__(
        self,
        name: str,
        address: str,
        renamed: Callable[[str], None],
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._name = name
        self._host, self._port = parse_tcp(address)
        self._renamed = renamed
        self._over = over
        self._server = f"dllama-{secrets.token_hex(4)}.local."
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announce", daemon=True)
        self._thread.start()

    def __enter__(self) -> Announcement:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say that the worker goes."""
        self._closed.set()
        self._thread.join(LEAVING)

    def _run(self) -> None:
        """Announce the worker, and again when the addresses have changed."""
        known: list[Interface] | None = None
        zeroconf: Zeroconf | None = None
        latest = -math.inf
        while not self._closed.wait(TICK) and not self._over():
            if time.monotonic() < latest + LOOK:
                continue
            found, latest = self._places(), time.monotonic()
            if found != known:
                _end(zeroconf)
                known, zeroconf = found, self._begin(found)
        _end(zeroconf)

    def _places(self) -> list[Interface]:
        """Return the interfaces where the worker can be reached, with those addresses alone."""
        host = ipaddress.ip_address(self._host.partition("%")[0])
        if host.is_unspecified:
            return interfaces()
        return [
            Interface(one.name, one.index, (str(host),))
            for one in interfaces()
            if str(host) in one.addresses
        ]

    def _begin(self, places: list[Interface]) -> Zeroconf | None:
        """Announce the worker; None if that does not succeed, which the log tells."""
        if not places:
            log.warning("not announced: no network interface leads to other machines")
            return None
        try:
            zeroconf = open_multicast(places)
        except (Error, OSError) as error:
            log.warning("not announced: %s", str(error) or type(error).__name__)
            return None
        addresses = [ipaddress.ip_address(ip).packed for one in places for ip in one.addresses]
        info = ServiceInfo(
            SERVICE, f"{self._name}.{SERVICE}", self._port, properties={"version": str(VERSION)},
            server=self._server, addresses=addresses,
        )  # fmt: skip
        try:
            zeroconf.register_service(info, allow_name_change=True)
        except (Error, OSError) as error:
            log.warning("not announced: %s", str(error) or type(error).__name__)
            _end(zeroconf)
            return None
        self._renamed(instance(info.name))
        log.info("announced as %s at %s", instance(info.name), names.listed([*map(str, places)]))
        return zeroconf


def instance(name: str) -> str:
    """Return the name of a worker, from the name of its service."""
    return names.clean(name.removesuffix(f".{SERVICE}"))


def open_multicast(places: list[Interface]) -> Zeroconf:
    """Speak multicast DNS on interfaces, with the kinds of addresses that they have."""
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)  # addresses that have just gone
    chosen: list[str | int] = []
    versions = set()
    for one in places:
        for version in (4, 6):
            own = [ip for ip in one.addresses if ipaddress.ip_address(ip).version == version]
            if own:
                versions.add(version)
                chosen.append(own[0] if version == 4 else one.index)
    both = {frozenset({4}): IPVersion.V4Only, frozenset({6}): IPVersion.V6Only}
    version_wanted = both.get(frozenset(versions), IPVersion.All)
    return Zeroconf(chosen or InterfaceChoice.All, ip_version=version_wanted)


def _end(zeroconf: Zeroconf | None) -> None:
    """Say goodbye, which takes a moment."""
    if zeroconf is not None:
        with contextlib.suppress(Error, OSError):
            zeroconf.close()
