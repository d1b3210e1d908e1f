"""Connections that have not said yet who they are: limited in number, by address and in all.

A stranger that is slow or silent must not keep out those that are not. So nobody is turned away: if
there are too many, one that waits gives way.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections import Counter

from dllama._kernels.comm.link import Link
from dllama.transports.sockets import network_of

MOST = 64
MEMORY = 72 << 20  # bytes of addresses that a thread may take: its stack, and an arena of malloc
# Seconds in which a stranger does not have to give way, since many nodes may come at once. Where
# there are few places it is less, or those who wait to be accepted would wait for too long.
SPARED, LEAST_SPARED = 0.25, 0.05


class Lobby:
    """Strangers that are being greeted.

    Args:
        lifetime: seconds after which no thread can be greeting a stranger any more.
    """

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._since: dict[Link, float] = {}  # the one that waits longest first
        self._gone: set[Link] = set()  # those that had to give way, until they leave
        self._changed = threading.Condition()
        self._most = max(1, min(MOST, _quarter("NOFILE"), _quarter("AS") // MEMORY))
        self._most_of_one = max(1, self._most // 2)
        self._spared = max(min(SPARED, LEAST_SPARED), SPARED * self._most / MOST)

    def enter(self, link: Link) -> None:
        """Add a stranger. Another one may have to give way; wait until one may."""
        with self._changed:
            self._sweep()
            while (oldest := self._in_the_way(link)) is not None:
                spared = self._since[oldest] + self._spared - time.monotonic()
                if spared <= 0:
                    self._drop(oldest)
                else:
                    self._changed.wait(spared)
            self._since[link] = time.monotonic()

    def leave(self, link: Link) -> bool:
        """Remove a stranger, if it is there; return whether it had to give way before."""
        with self._changed:
            self._since.pop(link, None)
            self._changed.notify_all()
            gone = link in self._gone
            self._gone.discard(link)
            return gone

    def make_room(self, but: Link | None = None) -> bool:
        """Make a stranger give way, other than one; False if there is none."""
        with self._changed:
            oldest = self._oldest([link for link in self._since if link is not but])
            if oldest is not None:
                self._drop(oldest)
            return oldest is not None

    def _in_the_way(self, link: Link) -> Link | None:
        """The stranger that has to give way to another one; None if there is room."""
        same = [one for one in self._since if network_of(one.peer) == network_of(link.peer)]
        if len(same) >= self._most_of_one:
            return same[0]
        return self._oldest(list(self._since)) if len(self._since) >= self._most else None

    def _oldest(self, links: list[Link]) -> Link | None:
        """The one that waits longest, of those of the address that has most."""
        if not links:
            return None
        networks = [network_of(link.peer) for link in links]
        (greedy, _), *_ = Counter(networks).most_common(1)
        return links[networks.index(greedy)]

    def _sweep(self) -> None:
        """Forget those whose thread has never begun, for lack of memory."""
        end = time.monotonic() - self._lifetime
        for link in [link for link, since in self._since.items() if since < end]:
            del self._since[link]
            link.close()

    def _drop(self, link: Link) -> None:
        """End a connection. The thread that greets it notices, and closes it."""
        del self._since[link]
        self._gone.add(link)
        link.interrupt()


def _quarter(kind: str) -> int:
    """A quarter of what this process may have of something."""
    limit, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{kind}"))
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit // 4
