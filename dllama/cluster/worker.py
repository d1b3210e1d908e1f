"""A worker: waits for a root, forms a cluster with its other workers, evaluates passes.

One root is served after another; whatever one of them does costs a line of the log, not the worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dllama import transports
from dllama._kernels import cpu
from dllama._kernels.comm.link import Link
from dllama.cluster import protocol
from dllama.cluster.messages import Join
from dllama.cluster.protocol import Kind, Want
from dllama.cluster.run_message import Run, most_bytes
from dllama.cluster.weight_transfer import LinkSource
from dllama.errors import DllamaError, ProtocolError, TransportError, TransportTimeoutError
from dllama.graph.graph import Graph
from dllama.graph.weights import Weights, load
from dllama.runtime.node import Node, communicator_of, graph_of
from dllama.sampling.remote import reply, top_of
from dllama.sampling.sampler import LocalShards
from dllama.transports import Listener

log = logging.getLogger("dllama.worker")

TICK = 0.25  # seconds between looks at signals while nothing happens
SOON = 0.005  # seconds after which the next pass is not to be expected any more
GREETING = 5.0  # seconds that a stranger has to say who it is
MAX_STRANGERS = 64
PIECE = 4096  # bytes that are read at a time of what nobody wants any more
REMEMBERED = 16  # sessions that have ended
FIRST_ROOT = 60.0  # seconds that a worker for one root waits for it


@dataclass
class _Meeting:
    """Data links of the session that forms now, as other nodes make them.

    ended: sessions whose nodes may still connect, which is nothing to complain about.
    """

    session: str = ""
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    ranks: range = range(0)
    links: dict[int, Link] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)


class Worker:
    """Serves roots that connect to a listener.

    threads: for computing. secret: what both sides prove, if not None. once: end after the first
    root. Close the listener yourself.
    """

    def __init__(
        self, listener: Listener, threads: int, secret: bytes | None = None, once: bool = False
    ) -> None:
        self._listener = listener
        self._threads = threads
        self._secret = secret
        self._once = once
        self._roots: queue.Queue[tuple[Link, Join]] = queue.Queue()
        self._busy = threading.Lock()
        self._meeting = _Meeting()
        self._strangers = threading.Semaphore(MAX_STRANGERS)
        self._stopped = threading.Event()
        self._kept: tuple[str, Weights] | None = None

    def serve(self) -> None:
        """Serve roots until stop is called, or the first has left."""
        acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)
        acceptor.start()
        waiting = time.monotonic()
        try:
            while not self._stopped.is_set():
                try:
                    root, join = self._roots.get(timeout=TICK)
                except queue.Empty:
                    if self._once and time.monotonic() > waiting + FIRST_ROOT:
                        log.warning("no root came within %g s", FIRST_ROOT)
                        return
                    continue
                self._serve(root, join)
                if self._once:
                    return
        finally:
            self._stopped.set()
            acceptor.join()

    def stop(self) -> None:
        """Make serve return soon."""
        self._stopped.set()

    def _accept(self) -> None:
        """Greet whoever connects, each in a thread of its own."""
        while not self._stopped.is_set():
            try:
                link = self._listener.accept(TICK)
            except TransportError as error:
                log.error("%s", error)
                self._stopped.set()
                return
            if link is None:
                continue
            if not self._strangers.acquire(blocking=False):
                log.warning("%s is turned away: %d others are greeted", link.peer, MAX_STRANGERS)
                link.close()
                continue
            threading.Thread(target=self._greet, args=(link,), daemon=True).start()

    def _greet(self, link: Link) -> None:
        """Find out what a connection is for; log in a line why it is for nothing."""
        link.timeout = GREETING
        try:
            protocol.greet(link, self._secret, caller=False)
            kind, length = protocol.receive_header(link)
            if kind not in (Kind.JOIN, Kind.PEER) or length > protocol.MAX_JSON:
                raise ProtocolError(f"{link.peer} began with message {kind} of {length} bytes")
            content = protocol.read_json(link, length)
            if kind == Kind.JOIN:
                self._invited(link, Join.from_json(content, link.peer))
            else:
                self._meet(link, content)
        except DllamaError as error:
            self._refuse(link, error)
        finally:
            self._strangers.release()

    def _refuse(self, link: Link, error: DllamaError) -> None:
        """Say why, and hang up."""
        log.warning("%s: refused: %s", link.peer, error)
        with contextlib.suppress(DllamaError):
            protocol.send_json(link, Kind.ERROR, {"message": str(error)})
        link.close()

    def _invited(self, link: Link, join: Join) -> None:
        """Take the one root there can be."""
        if not self._busy.acquire(blocking=False):
            raise ProtocolError("this worker serves another root")
        with self._meeting.changed:
            self._meeting.session, self._meeting.ranks = join.session, range(join.rank)
            self._meeting.links = {}
            self._meeting.changed.notify_all()
        self._roots.put((link, join))

    def _meet(self, link: Link, content: dict[str, Any]) -> None:
        """Hand the data link of another node to the session that it names."""
        session, rank = content.get("session"), content.get("rank")
        meeting = self._meeting
        if not session or type(session) is not str or type(rank) is not int:
            raise ProtocolError(
                f"{link.peer}: session {str(session)[:100]}, rank {str(rank)[:100]}"
            )
        with meeting.changed:
            known = meeting.changed.wait_for(
                lambda: session == meeting.session or session in meeting.ended, GREETING
            )
            if session in meeting.ended:
                log.info("%s is late: the session it was to join has ended", link.peer)
                link.close()
                return
            if not known or rank not in meeting.ranks or rank in meeting.links:
                raise ProtocolError(f"{link.peer} wants to join a session that is not here")
            protocol.send_json(link, Kind.ACCEPT, {})
            meeting.links[rank] = link
            meeting.changed.notify_all()

    def _serve(self, root: Link, join: Join) -> None:
        """One session, from JOIN to the end; its end is a line of the log."""
        session = _Session(self, root, join)
        begin = time.monotonic()
        try:
            session.run()
            log.info("%s left after %.1f s", root.peer, time.monotonic() - begin)
        except (DllamaError, MemoryError, OSError) as error:
            log.warning("session of %s ended: %s", root.peer, error or "out of memory")
            session.report(error)
        except Exception as error:  # a fault of ours, or of a file that the checks let through
            log.exception("session of %s ended", root.peer)
            session.report(error)
        finally:
            session.close()
            with self._meeting.changed:
                self._meeting.session = ""
                self._meeting.ended.append(join.session)
                self._meeting.changed.notify_all()
            self._busy.release()

    def links_of(self, ranks: set[int], timeout: float, root: Link) -> dict[int, Link]:
        """The data links that nodes of these ranks have made.

        TransportError if some are late, or the root has gone.
        """
        meeting, end = self._meeting, time.monotonic() + timeout
        with meeting.changed:
            while not ranks <= set(meeting.links) and time.monotonic() < end:
                if root.ended():
                    raise TransportError(f"{root.peer} has gone: the connection is closed")
                meeting.changed.wait(SOON)
            missing = ranks - set(meeting.links)
            if missing:
                raise TransportError(f"rank {min(missing)} did not connect within {timeout:g} s")
            return {rank: meeting.links[rank] for rank in ranks}

    def drop_links(self) -> None:
        """Close the data links of the session."""
        with self._meeting.changed:
            for link in self._meeting.links.values():
                link.close()
            self._meeting.links = {}

    @property
    def threads(self) -> int:
        """Threads for computing."""
        return self._threads

    @property
    def secret(self) -> bytes | None:
        """What other nodes must prove."""
        return self._secret

    @property
    def stopped(self) -> bool:
        """Whether stop was called."""
        return self._stopped.is_set()

    def weights(self, key: str, load: Callable[[], Weights]) -> Weights:
        """The weights that the last root sent, if they are those of this key, else newly loaded."""
        if not self.has(key):
            self._kept = None  # before there is memory for others
            self._kept = (key, load())
        assert self._kept is not None
        return self._kept[1]

    def has(self, key: str) -> bool:
        """Whether the weights of this key are here."""
        return self._kept is not None and self._kept[0] == key


class _Session:
    """What a worker does for one root."""

    def __init__(self, worker: Worker, root: Link, join: Join) -> None:
        self.worker = worker
        self.root = root
        self.join = join
        self.links: list[Link | None] = [None] * join.config.world_size
        self.node: Node | None = None
        self.shards: list[LocalShards] = []
        self.threads = join.threads if join.threads and cpu.openmp() else worker.threads
        root.timeout = join.config.timeout

    def run(self) -> None:
        """Form the cluster, take the weights, evaluate passes until the root leaves."""
        join, config = self.join, self.join.config
        log.info("%s: rank %d of %d nodes", self.root.peer, join.rank, config.world_size)
        spec = join.spec(self.root.peer)
        graph = graph_of(spec, config, join.rank)
        key = _key(join, graph)
        protocol.send_json(self.root, Kind.ACCEPT, {"cached": self.worker.has(key)})
        self._connect()
        weights = self.worker.weights(key, lambda: self._load(graph))
        communicator = communicator_of(graph, config, self.links, join.rank, {0: self.root})
        self.node = Node(graph, weights, config, self.threads, communicator)
        protocol.send_json(self.root, Kind.READY, {"memory": self.node.memory()})
        while self._message(self.node):
            pass

    def _connect(self) -> None:
        """Connect to nodes of higher rank, and wait for those of lower rank."""
        join, timeout = self.join, self.join.config.timeout
        transport = transports.get(join.transport)
        for rank in range(join.rank + 1, join.config.world_size):
            address = join.addresses[rank]
            link = transport.connect(address, timeout)
            self.links[rank] = link
            link.peer, link.timeout = f"worker {rank} ({address})", timeout
            protocol.greet(link, self.worker.secret, caller=True)
            content = {"session": join.session, "rank": join.rank}
            protocol.send_json(link, Kind.PEER, content)
            protocol.receive_json(link, Kind.ACCEPT)
        for rank, made in self.worker.links_of(set(range(join.rank)), timeout, self.root).items():
            made.peer = f"worker {rank} ({join.addresses[rank]})" if rank else "the root"
            self.links[rank] = transport.adopt(made)
        self.root = transport.adopt(self.root)
        self.root.timeout = timeout
        for one in [*self.links, self.root]:
            if one is not None:
                one.crowded = join.crowded

    def _load(self, graph: Graph) -> Weights:
        return load(graph, LinkSource(self.root), self.threads)

    def _message(self, node: Node) -> bool:
        """Answer one message of the root; False when it leaves."""
        ready = self.root.wait(SOON)
        while not ready:
            ready = self.root.wait(TICK)
            if self.worker.stopped:
                raise ProtocolError("this worker was stopped")
        kind, length = protocol.receive_header(self.root)
        if kind == Kind.RUN and length <= most_bytes(self.join.config):
            content = bytearray(length)
            self.root.recv_into(content)
            self._pass(node, Run.unpack(content, self.root.peer))
        elif kind == Kind.ASK and length <= protocol.MAX_JSON:
            question = protocol.read_json(self.root, length)
            protocol.send_json(self.root, Kind.ANSWER, self._reply(node, question))
        elif kind != Kind.BYE or length:
            raise ProtocolError(f"{self.root.peer} sent message {kind} of {length} bytes")
        return kind != Kind.BYE

    def _pass(self, node: Node, run: Run) -> None:
        """Evaluate a batch, and send what the root wants of the logits."""
        rows = run.batch.rows
        if not 0 < rows <= self.join.config.batch:
            raise ProtocolError(f"{self.root.peer}: RUN of {rows} rows")
        ids = np.zeros(rows, np.int32)  # of no meaning here: the root sends their embeddings
        try:
            logits = node.run(ids, run.batch, run.encoding)
        except ValueError as error:
            raise ProtocolError(f"{self.root.peer}: cannot run {run}: {error}") from error
        if run.want != Want.NOTHING:
            self.shards = [LocalShards(row, offset=node.shard.vocab.start) for row in logits]
        if run.want == Want.TOP:
            protocol.send(self.root, Kind.TOP, b"".join(map(top_of, self.shards)))
        elif run.want == Want.LOGITS:
            raw = np.ascontiguousarray(logits).reshape(-1).view(np.uint8)
            protocol.send(self.root, Kind.LOGITS, raw.data)

    def _reply(self, node: Node, question: dict[str, Any]) -> dict[str, Any]:
        """The reply to a question of the root."""
        if question.get("ask") == "clock":
            return {"clock": time.monotonic_ns()}
        if question.get("ask") == "timeline":
            return node.timeline()
        if question.get("ask") == "labels":
            return {"labels": node.labels()}
        return reply(self.shards, question)

    def report(self, error: Exception) -> None:
        """Tell the root; then wait until it hangs up.

        The root is made to look by the end of its data link. The links to others stay open
        meanwhile, so that they do not take this node for the one that failed.
        """
        if self.links[0] is not None:
            self.links[0].close()
        blames = (
            self.node.communicator.failed_rank if self.node and self.node.communicator else None
        )
        with contextlib.suppress(DllamaError):
            late = isinstance(error, TransportTimeoutError)
            content = {"message": str(error) or "out of memory", "blames": blames, "late": late}
            protocol.send_json(self.root, Kind.ERROR, content)
            end = time.monotonic() + self.join.config.timeout
            while (left := end - time.monotonic()) > 0 and not self.worker.stopped:
                if self.root.wait(min(TICK, left)):
                    self.root.timeout = left
                    self.root.recv_into(bytearray(PIECE))

    def close(self) -> None:
        """Close all connections."""
        self.root.close()
        for link in self.links:
            if link is not None:
                link.close()
        self.worker.drop_links()


def _key(join: Join, graph: Graph) -> str:
    """A name for the weights of a shard of a model."""
    text = f"{join.model} {join.header} {graph.matrices}"
    return hashlib.sha256(text.encode()).hexdigest()
