"""Listening for workers that are announced on the local network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from zeroconf import DNSQuestionType, Error, ServiceBrowser, ServiceInfo, Zeroconf

from dllama.cluster.finding.announcing import SERVICE, instance, open_multicast
from dllama.cluster.finding.interfaces import LINK_LOCAL, Interface, is_of_a_machine, kind_of
from dllama.cluster.finding.senders import Crowd, Senders
from dllama.errors import TransportError

RESOLVING = 1500  # milliseconds in which an announced worker has to say where it is
# Replies go to all, since several programs of a machine share the port of multicast DNS, and only
# one of them would get a reply to the machine.
QUESTION = DNSQuestionType.QM
MAX_ADDRESSES = 8  # of a worker


@dataclass(frozen=True)
class Heard:
    """An announced worker. Anybody can announce anything: nothing of it is proved.

    Args:
        name: of the worker.
        hosts: IP addresses, with a zone where they need one.
        port: where it listens.
    """

    name: str
    hosts: tuple[str, ...]
    port: int


class Ear:
    """Hears of workers; made by `listening`."""

    def __init__(self, zeroconf: Zeroconf, senders: Senders, places: list[Interface]) -> None:
        self._zeroconf = zeroconf
        self._senders = senders
        self._places = places
        self._crowd = Crowd()
        # It asks for services, several times.
        ServiceBrowser(zeroconf, SERVICE, handlers=[lambda **_: None], question_type=QUESTION)

    def names(self, seconds: float) -> Iterator[str]:
        """Yield names of services that were not heard of before, waiting for the first."""
        for name, sender in self._senders.heard(seconds):
            if self._crowd.admits(name, sender):
                yield name

    def resolve(self, name: str) -> Heard | None:
        """Return where a worker is; None if it does not say so in time, or has no name."""
        info = ServiceInfo(SERVICE, name)
        try:
            known = info.request(self._zeroconf, RESOLVING, QUESTION)
        except Error:
            return None
        if not known or not info.port or not instance(name):
            return None
        return Heard(instance(name), hosts_of(info, self._places), info.port)


def hosts_of(info: ServiceInfo, places: Iterable[Interface]) -> tuple[str, ...]:
    """Return the addresses of a worker; link-local ones if there are no others.

    An announcement does not tell the zone of a link-local address, so those of all interfaces are
    tried. It may claim addresses that no other machine can have; they are left out.

    Args:
        info: what is announced.
        places: interfaces of this machine.
    """
    claimed = {host.partition("%")[0] for host in info.parsed_scoped_addresses()}
    bare = sorted(filter(is_of_a_machine, claimed))
    found = [host for host in bare if kind_of(host) != LINK_LOCAL]
    if not found:
        own = [one.name for one in places if any(":" in ip for ip in one.addresses)]
        found = [f"{host}%{name}" for host in bare for name in own]
    return tuple(found[:MAX_ADDRESSES])


@contextmanager
def listening(places: list[Interface]) -> Iterator[Ear]:
    """Listen on interfaces during a `with` block; TransportError if that cannot be done."""
    with ExitStack() as stack:
        try:
            senders = stack.enter_context(closing(Senders(SERVICE, places)))
            zeroconf = stack.enter_context(open_multicast(places))
        except (Error, OSError) as error:
            raise TransportError(f"listening for workers: {error}") from error
        yield Ear(zeroconf, senders, places)
