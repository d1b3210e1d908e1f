"""A session: a worker joins a root's cluster, takes its weights and evaluates passes."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

import numpy as np

from dllama import transports
from dllama._kernels import cpu
from dllama._kernels.comm.link import Link
from dllama.cluster import names, protocol
from dllama.cluster.background import background
from dllama.cluster.meeting import LOOK, Meeting
from dllama.cluster.messages import Join
from dllama.cluster.protocol import Kind, Want
from dllama.cluster.run_message import Run, most_bytes
from dllama.cluster.weights.kept_weights import KeptWeights
from dllama.errors import DllamaError, ProtocolError, TransportError, TransportTimeoutError
from dllama.runtime.node import Node, communicator_of, graph_of
from dllama.sampling.remote import reply, top_message
from dllama.sampling.shard import Shard
from dllama.transports import Transport, tls

log = logging.getLogger("dllama.worker")

TICK = 0.1  # seconds between looks at whether the worker was stopped
SOON = 0.005  # seconds in which the next pass usually comes
ZONE = re.compile(r"%[^\]]+(?=\])")  # of a link-local address
PIECE = 4096  # bytes to read at a time when nobody wants them
# Threads that connect, also those of sessions that have ended: they end within those' timeouts.
CONNECTING = 8
FAREWELL = 0.25  # seconds that a root has to read why a worker leaves that was stopped

_places = threading.BoundedSemaphore(CONNECTING)


class Session:
    """What a worker does for one root, from JOIN to BYE. Run it once, then close it.

    Args:
        root: control link of the root.
        join: the root's invitation.
        meeting: where nodes of lower rank bring their data links.
        kept: weights of earlier sessions.
        threads: for computing, unless the root names a number.
        secret: what nodes prove to each other; None for no proof.
        plain: do without TLS.
        stopped: set when the worker is to stop.
        name: of the worker, "" for none.
    """

    def __init__(
        self,
        root: Link,
        join: Join,
        *,
        meeting: Meeting,
        kept: KeptWeights,
        threads: int,
        secret: bytes | None,
        plain: bool,
        stopped: threading.Event,
        name: str = "",
    ) -> None:
        self._root = root
        self._join = join
        self._meeting = meeting
        self._kept = kept
        self._secret = secret
        self._plain = plain
        self._stopped = stopped
        self._name = name
        self._threads = join.threads if join.threads and cpu.openmp() else threads
        self._links: list[Link | None] = [None] * join.config.world_size
        self._connected: Future[None] = Future()
        self._connected.set_result(None)  # nobody connects yet
        self._closed = False
        self._node: Node | None = None
        self._shards: list[Shard] = []  # of the last pass, one for each wanted row
        self._since = time.monotonic()
        root.timeout = join.config.timeout
        root.allow(root.timeout, self._since)
        root.peer = f"root ({names.place(join.name, root.peer)})"

    def run(self) -> None:
        """Form the cluster, take the weights, and evaluate passes until the root leaves.

        Raises:
            ProtocolError: the root or another node sent something wrong, or the worker was stopped.
            TransportError: a node is gone or silent.
            UnsupportedError: the model is of no family that this version knows.
            MemoryError: the weights do not fit.
        """
        join, config = self._join, self._join.config
        log.info("%s: rank %d of %d nodes", self._root.peer, join.rank, config.world_size)
        spec = join.spec(self._root.peer)
        graph = graph_of(spec, config, join.rank)
        cached, keeps = self._kept.find(join.weights, graph), self._kept.keeps
        accept = {"cached": cached, "keeps": keeps, "name": self._name}
        protocol.send_json(self._root, Kind.ACCEPT, accept)
        self._connect()
        weights = self._kept.get(join.weights, graph, self._root, self._threads, self._check)
        communicator = communicator_of(graph, config, self._links, join.rank, {0: self._root})
        self._node = Node(graph, weights, config, self._threads, communicator)
        protocol.send_json(self._root, Kind.READY, {"memory": self._node.memory()})
        while self._message(self._node):
            pass

    def report(self, error: Exception) -> None:
        """Tell the root why the session ends, and wait until it disconnects.

        Closing the data link to the root makes it look at its control link. The links to other
        workers stay open meanwhile, so that this node does not look like the one that failed.
        """
        if self._links[0] is not None:
            self._links[0].close()
        communicator = self._node.communicator if self._node else None
        content = {
            "message": str(error) or "out of memory",
            "blames": communicator.failed_rank if communicator else None,
            "late": isinstance(error, TransportTimeoutError),
        }
        with contextlib.suppress(DllamaError):
            protocol.send_json(self._root, Kind.ERROR, content)
            begin, wait = time.monotonic(), self._join.config.timeout
            while (left := begin + wait - time.monotonic()) > 0:
                if self._stopped.is_set():
                    wait = min(wait, FAREWELL)
                if self._root.wait(min(TICK, left)):
                    self._root.timeout = left
                    self._root.recv_into(bytearray(PIECE))

    def close(self) -> None:
        """Close all connections, those that are being made as soon as they are there."""
        self._closed = True
        self._root.close()
        for link in self._links:
            if link is not None:
                link.interrupt()
        self._connected.add_done_callback(self._close_links)
        self._meeting.end(self._join.session)

    def _close_links(self, _: object) -> None:
        """Close the links to other nodes, which no thread uses any more."""
        for link in self._links:
            if link is not None:
                link.close()

    def _connect(self) -> None:
        """Connect to nodes of higher rank, and wait for those of lower rank, all in one timeout.

        It ends at once if the root goes meanwhile, or if the worker is stopped.
        """
        join, timeout = self._join, self._join.config.timeout
        transport = transports.get(join.transport)
        if join.rank + 1 < join.config.world_size:
            self._connected = self._connecting(transport)
        while not wait([self._connected], LOOK).done:
            self._look()
        self._connected.result()
        met = self._meeting.wait(timeout, self._since, self._look)
        for rank, (made, name) in met.items():
            made.peer = names.worker(rank, name, join.addresses[rank]) if rank else "the root"
            self._links[rank] = tls.adopt(transport, made)
        self._root = tls.adopt(transport, self._root)
        self._root.timeout = timeout
        self._root.allow(math.inf)
        self._root.keep_alive(2 * timeout)
        for one in [*self._links, self._root]:
            if one is not None:
                one.crowded = join.crowded

    def _connecting(self, transport: Transport) -> Future[None]:
        """Begin to connect to nodes of higher rank, once few threads of earlier sessions do."""
        while not _places.acquire(timeout=LOOK):
            self._look()
        try:
            connected = background(self._reach, transport, self._root.peer)
        except BaseException:
            _places.release()
            raise
        connected.add_done_callback(lambda _: _places.release())
        return connected

    def _reach(self, transport: Transport, root: str) -> None:
        """Connect to nodes of higher rank; root: what it is called, with its address."""
        join, timeout = self._join, self._join.config.timeout
        for rank in range(join.rank + 1, join.config.world_size):
            address = in_zone_of(root, join.addresses[rank])
            link = transport.connect(address, max(SOON, self._since + timeout - time.monotonic()))
            self._links[rank] = link
            if self._closed:
                return
            link.peer, link.timeout = names.worker(rank, "", address), timeout
            link.allow(timeout, self._since)
            protocol.greet(link, self._secret, caller=True, plain=self._plain)
            content = {"session": join.session, "rank": join.rank, "name": self._name}
            protocol.send_json(link, Kind.PEER, content)
            name = names.clean(protocol.receive_json(link, Kind.ACCEPT).get("name"))
            link.peer = names.worker(rank, name, address)
            link.allow(math.inf)

    def _look(self) -> None:
        """Raise an error if the root has gone or the worker was stopped."""
        self._check()
        if self._root.ended():
            raise TransportError(f"{self._root.peer} has gone: the connection is closed")

    def _check(self) -> None:
        """Raise ProtocolError if the worker was stopped."""
        if self._stopped.is_set():
            raise ProtocolError("this worker was stopped")

    def _message(self, node: Node) -> bool:
        """Do what one message of the root asks for; False when it leaves."""
        self._check()
        ready = self._root.wait(SOON)
        while not ready:
            self._check()
            ready = self._root.wait(TICK)
        kind, length = protocol.receive_header(self._root)
        caches = len(node.graph.caches)
        if kind == Kind.RUN and length <= most_bytes(self._join.config, caches):
            content = bytearray(length)
            self._root.recv_into(content)
            self._pass(node, Run.unpack(content, self._root.peer))
        elif kind == Kind.ASK and length <= protocol.MAX_JSON:
            question = protocol.read_json(self._root, length)
            protocol.send_json(self._root, Kind.REPLY, self._reply(node, question))
        elif kind != Kind.BYE or length:
            raise ProtocolError(f"{self._root.peer} sent message {kind} of {length} bytes")
        return kind != Kind.BYE

    def _pass(self, node: Node, run: Run) -> None:
        """Evaluate a batch, and send what the root wants of its logits."""
        rows = run.batch.rows
        if not 0 < rows <= self._join.config.batch:
            raise ProtocolError(f"{self._root.peer}: RUN of {rows} rows")
        ids = np.zeros(rows, np.int32)  # not used here: the root sends their embeddings
        try:
            logits = node.run(ids, run.batch, run.encoding)
        except ValueError as error:
            raise ProtocolError(f"{self._root.peer}: cannot run {run}: {error}") from error
        if run.want != Want.NOTHING:
            self._shards = [Shard(row, node.shard.vocab.start) for row in logits]
        if run.want == Want.TOP:
            protocol.send(self._root, Kind.TOP, top_message(self._shards))
        elif run.want == Want.LOGITS:
            raw = np.ascontiguousarray(logits).reshape(-1).view(np.uint8)
            protocol.send(self._root, Kind.LOGITS, raw.data)

    def _reply(self, node: Node, question: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a message of the root."""
        if question.get("ask") == "clock":
            return {"clock": time.monotonic_ns()}
        if question.get("ask") == "timeline":
            return node.timeline()
        if question.get("ask") == "labels":
            return {"labels": node.labels()}
        return reply(self._shards, question, protocol.MAX_JSON)


def in_zone_of(root: str, address: str) -> str:
    """Return an address that the root knows as this node has to write it.

    The zone of a link-local address is a name of an interface, which is another one on each node.

    Args:
        root: what its link's peer is called, with its address.
        address: of another worker.
    """
    own = ZONE.search(root)
    return ZONE.sub(own[0], address) if own and "[fe80:" in address else address
