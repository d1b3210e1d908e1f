"""A worker: it greets whoever connects, and serves one root after another.

Whatever a root or a stranger does costs a line of the log, not the worker.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from typing import Any

from dllama._kernels.comm.link import Link
from dllama.cluster import about, protocol
from dllama.cluster.about import About
from dllama.cluster.acceptor import Acceptor
from dllama.cluster.lobby import Lobby
from dllama.cluster.meeting import Meeting
from dllama.cluster.messages import Join
from dllama.cluster.protocol import Kind
from dllama.cluster.session import Session
from dllama.cluster.speed import speeds
from dllama.cluster.weights.kept_weights import KeptWeights
from dllama.cluster.weights.shard_folder import ShardFolder
from dllama.errors import DllamaError, ProtocolError, TransportError, TransportTimeoutError
from dllama.transports import Listener

log = logging.getLogger("dllama.worker")

TICK = 0.25  # seconds between looks at whether the worker was stopped
GREETING = 5.0  # seconds that a stranger has in all to say who it is and what it wants
FIRST = (Kind.JOIN, Kind.PEER, Kind.ABOUT, Kind.SPEED)  # what a connection may begin with
LEAVING = 0.5  # seconds at most that a root waits for one that leaves, and who leaves for its disk
WRITING = 60.0  # seconds at most that a worker whose only root has left waits for its disk
FIRST_ROOT = 60.0  # seconds that a worker for one root waits for it


class Worker:
    """Serves roots that connect to a listener.

    Args:
        listener: where roots and other workers connect; closing it is up to the caller.
        threads: for computing.
        secret: what both sides of a connection prove; None for no proof.
        once: end after the first root.
        name: what messages call it, "" for its address alone.
        patience: seconds that it waits for a root after a session has failed; None for any time.
        folder: where shards are kept; None for memory alone.

    Attributes:
        name: may change at any time.
        forsaken: whether it has ended since no root came after a session had failed.
        plain: do without TLS.
    """

    def __init__(
        self,
        listener: Listener,
        threads: int,
        secret: bytes | None = None,
        once: bool = False,
        name: str = "",
        patience: float | None = None,
        folder: ShardFolder | None = None,
        plain: bool = False,
    ) -> None:
        self.forsaken = False
        self._patience = patience
        self._failed = False  # whether the last session did
        self.name = name
        self._listener = listener
        self._threads = threads
        self._secret = secret
        self._once = once
        self._plain = plain
        self._roots: queue.Queue[tuple[Link, Join]] = queue.Queue()
        self._busy = threading.Lock()
        self._root: str | None = None  # name of the one that is served
        self._meeting = Meeting()
        self._kept = KeptWeights(folder, keeps=folder is not None or not once)
        self._lobby = Lobby(2 * GREETING)
        self._stopped = threading.Event()

    def serve(self) -> None:
        """Serve roots until stop is called, until none can come, or the first one has left.

        Raises:
            TransportError: the listener is closed.
        """
        acceptor = Acceptor(self._listener, self._lobby, self._greet)
        waiting = time.monotonic()
        try:
            while not (self._stopped.is_set() or self._listener.ended):
                if acceptor.failure:
                    raise acceptor.failure
                try:
                    root, join = self._roots.get(timeout=TICK)
                except queue.Empty:
                    if self._once and time.monotonic() > waiting + FIRST_ROOT:
                        log.warning("no root came within %g s", FIRST_ROOT)
                        return
                    self.forsaken = self._failed and self._patience is not None
                    self.forsaken &= time.monotonic() > waiting + (self._patience or 0.0)
                    if self.forsaken:
                        return
                    continue
                self._serve(root, join)
                waiting = time.monotonic()
                if self._once:
                    return
        finally:
            acceptor.stop()
            self._kept.close(LEAVING if self._stopped.is_set() else WRITING)
            self._stopped.set()

    def stop(self) -> None:
        """Make serve return soon, from any thread."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether stop was called, or serve has returned."""
        return self._stopped.is_set()

    def _greet(self, link: Link) -> None:
        """Find out what a connection is for, and refuse one that is for nothing."""
        link.timeout = GREETING
        link.allow(GREETING)
        try:
            self._let_in(link, time.monotonic() + GREETING)
        except DllamaError as error:
            if self._lobby.leave(link):
                log.warning("%s: it gives way to others, who it is was not known yet", link.peer)
            elif _left(link, error):
                log.info("%s left before it said what it wants", link.peer)
            else:
                self._refuse(link, error)
            link.close()
        except Exception as error:  # out of memory, or a bug here
            log.error("%s: refused: %r", link.peer, error)
            link.close()
        finally:
            self._lobby.leave(link)

    def _let_in(self, link: Link, end: float) -> None:
        """Hand a connection over to whom it is for.

        Who has proved the secret is no stranger any more. Without a secret, everybody is one until
        its session is there.
        """
        protocol.greet(link, self._secret, caller=False, plain=self._plain)
        if self._secret is not None:
            self._lobby.leave(link)
        kind, length = protocol.receive_header(link)
        if kind not in FIRST or length > protocol.MAX_JSON:
            raise ProtocolError(f"{link.peer} began with message {kind} of {length} bytes")
        content = protocol.read_json(link, length)
        if kind == Kind.JOIN:
            join = Join.from_json(content, link.peer)
            self._lobby.leave(link)
            self._invited(link, join)
        elif kind == Kind.PEER:
            self._meeting.join(link, content, max(0.0, end - time.monotonic()))
        elif kind == Kind.SPEED:
            self._lobby.leave(link)
            self._measure(link, content)
        else:
            about.tell(link, content, About.here(self.name, self._threads, self._root))
            link.close()

    def _refuse(self, link: Link, error: DllamaError) -> None:
        """Say why."""
        log.warning("refused: %s", _told(link, error))
        with contextlib.suppress(DllamaError):
            protocol.send_json(link, Kind.ERROR, {"message": str(error)})

    def _measure(self, link: Link, content: dict[str, Any]) -> None:
        """Say how fast this worker is, unless it serves a root, whom measuring would slow down."""
        speeds.question_of(content, link.peer)
        self._take(LEAVING)
        try:
            speeds.tell(link, content, self.name, self._threads)
        finally:
            self._busy.release()
        link.close()

    def _take(self, seconds: float) -> None:
        """Begin to serve a root; ProtocolError if there is one that stays longer."""
        if not self._busy.acquire(timeout=seconds):
            raise ProtocolError("this worker serves another root")

    def _invited(self, link: Link, join: Join) -> None:
        """Take a root unless there is one that stays."""
        self._take(min(LEAVING, join.config.timeout / 2))
        self._root = join.name
        self._meeting.begin(join.session, join.rank, self.name)
        self._roots.put((link, join))

    def _serve(self, root: Link, join: Join) -> None:
        """Run a session to its end, and log how it ended."""
        session = Session(
            root,
            join,
            meeting=self._meeting,
            kept=self._kept,
            threads=self._threads,
            secret=self._secret,
            plain=self._plain,
            stopped=self._stopped,
            name=self.name,
        )
        begin = time.monotonic()
        self._failed = True
        try:
            session.run()
            self._failed = False
            log.info("%s left after %.1f s", root.peer, time.monotonic() - begin)
        except (DllamaError, MemoryError, OSError) as error:
            log.warning("session ended: %s", _told(root, error))
            session.report(error)
        except Exception as error:  # a bug here, or a model that passed the checks
            log.exception("session of %s ended", root.peer)
            session.report(error)
        finally:
            session.close()
            self._root = None
            self._busy.release()


def _told(link: Link, error: BaseException) -> str:
    """Return an error as the log has it: it names the other side, as most errors do already."""
    text = str(error) or "out of memory"
    return text if link.peer in text else f"{link.peer}: {text}"


def _left(link: Link, error: DllamaError) -> bool:
    """Whether a node died while it connected. Its session, if it has one, complains about that.

    It may have died before its Hello. Who looks whether the port is open does the same, often.
    """
    gone = isinstance(error, TransportError) and not isinstance(error, TransportTimeoutError)
    return gone and not 0 < link.received_bytes < protocol.HELLO.size
