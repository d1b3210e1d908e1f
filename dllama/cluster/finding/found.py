"""A worker that was found, and the addresses under which it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

from dllama import transports
from dllama.cluster import about, protocol
from dllama.cluster.about import MAX_FILL, About
from dllama.cluster.background import background
from dllama.cluster.finding.browsing import Heard
from dllama.cluster.finding.interfaces import Interface, is_here, kind_of, towards
from dllama.cluster.protocol import PlainError, StrangerError, VersionError
from dllama.errors import AuthenticationError, DllamaError, ProtocolError
from dllama.transports.sockets import format_tcp

ANSWERING = 1.5  # seconds that an address has to answer
PROBING = 10.0  # seconds that a long reply may take
OTHERS = 1.0  # seconds that other addresses of a worker have after the first has answered
PROBES = 2  # the faster counts

FREE, BUSY, NO_REPLY = "free", "busy", "no reply"
ANOTHER_SECRET, ANOTHER_VERSION = "another secret", "another version"
ANOTHER_PROTOCOL, ONE_PLAIN, WRONG_REPLY = "another protocol", "TLS differs", "wrong reply"
# What errors make of a worker, the most telling first.
STATES: Sequence[tuple[type[DllamaError], str]] = (
    (AuthenticationError, ANOTHER_SECRET),
    (VersionError, ANOTHER_VERSION),
    (PlainError, ONE_PLAIN),
    (StrangerError, ANOTHER_PROTOCOL),
    (ProtocolError, WRONG_REPLY),
)


@dataclass(frozen=True)
class Path:
    """A way to a worker.

    Args:
        interface: of this machine.
        kind: of IP address (interfaces.KINDS).
        address: of the worker.
    """

    interface: str
    kind: str
    address: str


@dataclass(frozen=True)
class Found:
    """A worker that was found.

    Args:
        name: under which it is announced.
        address: to connect to.
        state: FREE, BUSY, NO_REPLY, or one of STATES.
        why: in a sentence, where it cannot be used.
        here: whether it runs on this machine.
        about: what it tells; None if it cannot be used.
        paths: all that lead to it.
    """

    name: str
    address: str
    state: str
    why: str = ""
    here: bool = False
    about: About | None = None
    paths: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        """What messages call it."""
        return _label(self.name, self.address)


def _label(name: str, address: str) -> str:
    return f"{name} ({address})"


def meet(heard: Heard, secret: bytes | None, places: list[Interface], plain: bool = False) -> Found:
    """Ask an announced worker about itself, at all its addresses at the same time."""
    hosts = {format_tcp(host, heard.port): host for host in heard.hosts}
    if not hosts:
        return Found(
            heard.name, "?", NO_REPLY, f"{heard.name} is announced without a usable address"
        )
    answers = _answers(
        {background(talk, heard.name, address, secret, plain): address for address in hosts}
    )
    right = {
        address: told
        for address, told in answers.items()
        if not isinstance(told, About) or told.name == heard.name
    }
    good = {address: told for address, told in right.items() if isinstance(told, About)}
    if not good:
        errors = [told for told in right.values() if isinstance(told, DllamaError)]
        return _refused(heard, next(iter(right), next(iter(hosts))), errors)
    paths = [
        Path(one.name, kind_of(hosts[address]), address)
        for address in good
        if (one := towards(hosts[address], places)) is not None
    ]
    address, told = next(iter(good.items()))
    why = f"{_label(heard.name, address)} serves the root {told.root}" if told.busy else ""
    here = any(is_here(hosts[one], places) for one in good)
    state = BUSY if told.busy else FREE
    return Found(heard.name, address, state, why, here, told, tuple(paths))


def talk(
    name: str,
    address: str,
    secret: bytes | None,
    plain: bool = False,
    seconds: float = ANSWERING,
    fill: int = 0,
) -> About:
    """Ask the worker at an address about itself; raises as connecting and greeting do."""
    begin = time.monotonic()
    with transports.of_address(address).connect(address, ANSWERING) as link:
        link.peer, link.timeout = _label(name, address), seconds
        link.allow(seconds, begin)
        protocol.greet(link, secret, caller=True, plain=plain)
        return about.ask(link, fill)


def seconds_of(name: str, path: Path, secret: bytes | None, plain: bool = False) -> float:
    """Return how long a worker's reply of MAX_FILL bytes takes over a path; infinity if lost."""
    took = float("inf")
    for _ in range(PROBES):
        begin = time.monotonic()
        try:
            talk(name, path.address, secret, plain, PROBING, MAX_FILL)
        except DllamaError:
            continue
        took = min(took, time.monotonic() - begin)
    return took


def _answers(asked: dict[Future[About], str]) -> dict[str, About | DllamaError]:
    """Return what came of each address, in the order of the addresses."""
    wait(asked, return_when="FIRST_COMPLETED")
    wait(asked, OTHERS)
    done = {address: _outcome(future) for future, address in asked.items() if future.done()}
    if not any(isinstance(told, About) for told in done.values()):
        done = {address: _outcome(future) for future, address in asked.items()}
    return done


def _outcome(future: Future[About]) -> About | DllamaError:
    try:
        return future.result()
    except DllamaError as error:
        return error


def _refused(heard: Heard, address: str, errors: Sequence[DllamaError]) -> Found:
    """Return a worker that cannot be used, with the most telling reason."""
    label = _label(heard.name, address)
    none = Found(heard.name, address, NO_REPLY, f"{label}: another worker has this address")
    if errors:
        none = replace(none, why=f"{label}: {errors[0]}")
    for kind, state in STATES:
        for error in errors:
            if isinstance(error, kind):
                return replace(none, state=state, why=str(error))
    return none
