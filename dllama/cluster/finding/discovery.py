"""Finding the workers of the local network that know the secret, and the best way to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from dllama.cluster import names
from dllama.cluster.background import background
from dllama.cluster.finding.browsing import Heard, listening
from dllama.cluster.finding.found import BUSY, FREE, Found, Path, meet, seconds_of
from dllama.cluster.finding.interfaces import KINDS, Interface, interfaces
from dllama.cluster.secrets import check_length
from dllama.errors import TransportError

log = logging.getLogger("dllama.engine")

ANYWHERE = "0.0.0.0:0"  # where a secret is proved to who was found
LISTENING = 2.5  # seconds
SETTLING = 0.4  # seconds for others, once there are as many as wanted
AGAIN = 0.25  # seconds until a busy worker is asked again
EQUAL = 1.25  # an interface that takes so much longer than another is slower


def find_workers(
    secret: bytes | None, wanted: int | None = None, option: str = "", plain: bool = False
) -> list[Found]:
    """Return the free workers of other machines that know the secret, by name.

    What cannot be used is logged, a line each.

    Args:
        secret: None for none.
        wanted: how many are needed; None for all that answer while this listens.
        option: that gives the secret, for messages.
        plain: do without TLS.

    Raises:
        TransportError: there are none, or fewer than wanted.
    """
    check_length(secret, ANYWHERE, option)
    places = interfaces()
    found = listen(secret, places, wanted, plain)
    free = [one for one in found if one.state == FREE and not one.here]
    others = [_unusable(one) for one in found if one not in free]
    if len(free) < (wanted or 1):
        raise TransportError(too_few(len(free), wanted, others, places))
    for line in others[: names.LISTED]:
        log.warning("%s: not used", line)
    if len(others) > names.LISTED:
        log.warning("%d more announced workers: not used", len(others) - names.LISTED)
    return choose(free[:wanted], secret, plain)


def listen(
    secret: bytes | None, places: list[Interface], wanted: int | None, plain: bool = False
) -> list[Found]:
    """Return all workers that are announced, by name; for the arguments see find_workers."""
    if not places:
        return []
    end = time.monotonic() + LISTENING
    with listening(places) as ear:

        def ask(name: str) -> tuple[Heard, Found] | None:
            heard = ear.resolve(name)
            return (heard, meet(heard, secret, places, plain)) if heard else None

        def again(heard: Heard) -> tuple[Heard, Found]:
            time.sleep(AGAIN)
            return heard, meet(heard, secret, places, plain)

        known: dict[str, Found] = {}
        asked: list[Future[tuple[Heard, Found] | None]] = []
        settled = False
        while time.monotonic() < end or not all(future.done() for future in asked):
            asked += [background(ask, name) for name in ear.names(0.05)]
            for future in [future for future in asked if future.done()]:
                asked.remove(future)
                if (answer := future.result()) is None:
                    continue
                heard, found = answer
                if found.about or found.name not in known:  # nobody else takes its place
                    known[found.name] = found
                if found.state == BUSY and time.monotonic() < end - AGAIN:
                    asked.append(background(again, heard))
            free = sum(one.state == FREE and not one.here for one in known.values())
            if wanted is not None and free >= wanted and not settled:
                settled, end = True, min(end, time.monotonic() + SETTLING)
    return [known[name] for name in sorted(known)]


def choose(found: Sequence[Found], secret: bytes | None, plain: bool = False) -> list[Found]:
    """Give all workers addresses of the fastest network that all of them are in.

    So they reach each other, too. Networks are compared by how long a reply of some size takes
    from the slowest worker. Without a network of all, each has its own first address.
    """
    common = _common(found)
    if not common:
        return list(found)
    chosen = next(iter(common.values()))
    if len(common) > 1:
        times = {
            name: max(seconds_of(worker, path, secret, plain) for worker, path in paths.items())
            for name, paths in common.items()
        }
        least = min(times.values())
        name = next(name for name, took in times.items() if took <= EQUAL * least)
        chosen = common[name]
        told = ", ".join(f"{one} {1e3 * took:.1f} ms" for one, took in times.items())
        log.info("workers are reached over %s, the fastest of: %s", name, told)
    return [replace(one, address=chosen[one.name].address) for one in found]


def _common(found: Sequence[Found]) -> dict[str, dict[str, Path]]:
    """Return the paths by interface and name of worker, of interfaces that lead to all of them.

    All paths over an interface have the same kind of address, the best that all workers have.
    """
    common: dict[str, dict[str, Path]] = {}
    for kind in KINDS:
        for interface in sorted({path.interface for one in found for path in one.paths}):
            paths = {
                one.name: path
                for one in found
                for path in one.paths
                if (path.interface, path.kind) == (interface, kind)
            }
            if len(paths) == len(found):
                common.setdefault(interface, paths)
    return common


def _unusable(one: Found) -> str:
    """Say why a worker is not used."""
    if one.here:
        return f"{one.label} is on this machine, as the root is"
    return one.why


def too_few(
    count: int, wanted: int | None, others: Sequence[str], places: Sequence[Interface]
) -> str:
    """Say that there are too few workers, what was looked for and where, and what may help."""
    if not places:
        return "no workers found: no network interface of this machine leads to others"
    none = "no usable workers" if others else "no workers"
    number = f"{count} of {wanted} workers" if count else none
    where = names.listed([*map(str, places)])
    text = f"{number} found: listened {LISTENING:g} s for _dllama._tcp on {where}"
    if others:
        return f"{text}; not usable: {names.listed(others, '; ')}"
    return (
        f"{text}. Does `dllama worker --announce` run on the others, with the same secret? Where a "
        f"network blocks multicast, --workers ADDRESS names them"
    )
