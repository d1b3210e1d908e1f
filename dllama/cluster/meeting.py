"""Where a worker's session finds the data links that nodes of lower rank open."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dllama._kernels.comm.link import Link
from dllama.checks import shown
from dllama.cluster import names, protocol
from dllama.cluster.protocol import Kind
from dllama.errors import ProtocolError, TransportTimeoutError

log = logging.getLogger("dllama.worker")

LOOK = 0.005  # seconds between looks at whether the root is still there, while nodes are awaited
GLANCE = 0.05  # seconds between looks at whether a node that is early is still there
REMEMBERED = 16  # sessions that have ended


class Meeting:
    """Data links of one session at a time, handed from the threads that greet to the session."""

    def __init__(self) -> None:
        self._session = ""
        self._ranks = range(0)
        self._name = ""
        self._links: dict[int, tuple[Link, str]] = {}  # and the name of the node
        # Nodes of these may still connect. That is nothing to complain about.
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self._changed = threading.Condition()

    def begin(self, session: str, rank: int, name: str) -> None:
        """Expect data links.

        Args:
            session: name of the session.
            rank: of this worker. Nodes of lower rank connect to it.
            name: of this worker.
        """
        with self._changed:
            self._session, self._ranks, self._name = session, range(rank), name
            self._links = {}
            self._changed.notify_all()

    def end(self, session: str) -> None:
        """Close the session's data links and expect no more."""
        with self._changed:
            for link, _ in self._links.values():
                link.close()
            self._links = {}
            self._session = ""
            self._ended.append(session)
            self._changed.notify_all()

    def join(self, link: Link, content: dict[str, Any], timeout: float) -> None:
        """Hand over the data link of another node and reply with ACCEPT.

        Args:
            link: greeted; closed if its session has ended already, or if the node gave up.
            content: of the node's PEER.
            timeout: seconds to wait for the session to begin.

        Raises:
            ProtocolError: there is no such session, or the node has no place in it.
        """
        session, rank = content.get("session"), content.get("rank")
        if not session or type(session) is not str or type(rank) is not int:
            raise ProtocolError(f"{link.peer}: session {shown(session)}, rank {shown(rank)}")
        end = time.monotonic() + timeout
        with self._changed:
            while not self._knows(session) and (left := end - time.monotonic()) > 0:
                if link.ended():
                    log.info("%s left: the session it was to join has not begun", link.peer)
                    link.close()
                    return
                self._changed.wait(min(left, GLANCE))
            if session in self._ended:
                log.info("%s is late: the session it was to join has ended", link.peer)
                link.close()
                return
            if session != self._session or rank not in self._ranks or rank in self._links:
                raise ProtocolError(f"{link.peer} wants to join a session that is not here")
            protocol.send_json(link, Kind.ACCEPT, {"name": self._name})
            self._links[rank] = link, names.clean(content.get("name"))
            self._changed.notify_all()

    def _knows(self, session: str) -> bool:
        """Whether a session has begun."""
        return session == self._session or session in self._ended

    def wait(
        self, timeout: float, since: float, check: Callable[[], object]
    ) -> dict[int, tuple[Link, str]]:
        """Return the data links of all nodes of lower rank, and their names, by rank.

        Args:
            timeout: seconds to wait.
            since: when they began, in seconds of time.monotonic().
            check: called all the time meanwhile; its errors pass through.

        Raises:
            TransportTimeoutError: a node is late.
        """
        end = since + timeout
        with self._changed:
            while missing := set(self._ranks) - set(self._links):
                check()
                if time.monotonic() >= end:
                    raise TransportTimeoutError(
                        f"rank {min(missing)} did not connect within {timeout:g} s"
                    )
                self._changed.wait(LOOK)
            return dict(self._links)
