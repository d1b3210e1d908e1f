"""The root's side of a cluster: invite workers, hand out weights, start passes, find who failed."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.comm.link import Link
from dllama.cluster import protocol
from dllama.cluster.messages import Join
from dllama.cluster.protocol import Kind
from dllama.cluster.run_message import Run
from dllama.cluster.weight_transfer import model_digest, send_weights
from dllama.errors import (
    DllamaError,
    NodeError,
    ProtocolError,
    TransportError,
    TransportTimeoutError,
)
from dllama.graph.graph import Graph
from dllama.graph.weights import graph_nbytes
from dllama.model.file import ModelFile
from dllama.progress import byte_bar
from dllama.run_config import RunConfig
from dllama.runtime.node import communicator_of, graph_of
from dllama.sampling.remote import TOP
from dllama.transports import Transport

log = logging.getLogger("dllama.cluster")
T = TypeVar("T")


class Member:
    """A worker as the root knows it."""

    def __init__(self, rank: int, address: str, control: Link) -> None:
        self.rank = rank
        self.address = address
        self.control = control
        self.memory: dict[str, int] = {}
        self.clock = 0  # nanoseconds that its clock is ahead of the root's
        self.vocab = range(0)

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"worker {self.rank} ({self.address})"


class Coordinator:
    """Workers that hold their shards of a model and wait for passes.

    Made by join; close it. All errors name the worker. After an error of a pass the cluster
    cannot go on.
    """

    def __init__(
        self, members: list[Member], links: list[Link | None], communicator: Communicator
    ) -> None:
        self.members = members
        self.communicator = communicator
        self.failed = False
        self._links = links

    @classmethod
    def join(
        cls,
        addresses: Sequence[str],
        transport: Transport,
        secret: bytes | None,
        model: ModelFile,
        config: RunConfig,
        *,
        threads: Sequence[int],
        crowded: bool = False,
        progress: bool = False,
    ) -> Coordinator:
        """Connect to workers, form the cluster and give them their weights.

        threads: by rank, 0 for what a worker was started with. crowded: nodes share processors.

        TransportError, AuthenticationError or ProtocolError names the worker that is
        unreachable, refuses, or fails; nothing stays open then.
        """
        forming = _Forming(addresses, transport, secret, model, config, threads, crowded)
        try:
            return forming.form(progress)
        except BaseException:
            forming.close()
            raise

    def start(self, run: Run) -> None:
        """Tell all workers to evaluate a batch."""
        content = run.pack()
        with self._blaming():
            for member in self.members:
                protocol.send(member.control, Kind.RUN, content)

    def check(self) -> None:
        """Raise what went wrong in the communicator's collectives, naming the worker to blame."""
        with self._blaming():
            self.communicator.check()

    def tops(self, rows: int) -> list[list[tuple[float, int]]]:
        """The largest logit and its id of every worker's vocabulary shard, for each of the rows
        whose logits are wanted, as workers send them after a pass."""
        with self._blaming():
            contents = [_content(m, Kind.TOP, rows * TOP.size) for m in self.members]
        by_member = [list(TOP.iter_unpack(content)) for content in contents]
        return [list(tops) for tops in zip(*by_member, strict=True)]

    def logits(self, own: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits of the whole vocabulary, float32 (n, vocab), from this node's and those
        that workers send after a pass."""
        parts = [own]
        with self._blaming():
            for member in self.members:
                shape = (len(own), len(member.vocab))
                raw = _content(member, Kind.LOGITS, 4 * shape[0] * shape[1])
                parts.append(np.frombuffer(raw, "<f4").reshape(shape))
        return np.concatenate(parts, axis=1)

    def ask(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers of all workers to a question about their logits or their work."""
        with self._blaming():
            for member in self.members:
                protocol.send_json(member.control, Kind.ASK, question)
            return [protocol.receive_json(m.control, Kind.ANSWER) for m in self.members]

    def traffic(self) -> tuple[int, int]:
        """Bytes that the root sent and received, control messages included."""
        sent, received = self.communicator.traffic()
        controls = [member.control for member in self.members]
        return (
            sent + sum(link.sent_bytes for link in controls),
            received + sum(link.received_bytes for link in controls),
        )

    def close(self) -> None:
        """Let the workers go; a second call does nothing."""
        for member in self.members:
            with contextlib.suppress(DllamaError):
                if not member.control.failed:
                    protocol.send(member.control, Kind.BYE)
        self._hang_up()

    def _hang_up(self) -> None:
        """Close all links."""
        for member in self.members:
            member.control.close()
        for link in self._links:
            if link is not None:
                link.close()

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """Turn an error of a link into one that names the worker that caused it."""
        try:
            yield
        except (TransportError, ProtocolError) as error:
            self.failed = True
            blamed = self._blame(error)
            self._hang_up()
            raise blamed from error

    def _blame(self, error: DllamaError) -> DllamaError:
        """The error that names the worker that is gone, or that failed, or that is silent.

        Those that noticed say so on their control links, within the part of the timeout that
        waits for their data leave.
        """
        silent, reports = list(self.members), list[NodeError]()
        late = isinstance(error, TransportTimeoutError)
        suspects = {self.communicator.failed_rank} if late else set()
        end = time.monotonic() + 0.2 * self.members[0].control.timeout
        if isinstance(error, NodeError):
            reports.append(error)
        # When all that are silent are blamed for it, there is nobody left to wait for.
        while {member.rank for member in silent} - suspects and time.monotonic() < end:
            for member in [m for m in silent if m.control.failed or m.control.wait(0.001)]:
                report = _last_words(member)
                if isinstance(report, TransportError):
                    return TransportError(f"{member.name} has gone: the connection is closed")
                silent.remove(member)
                reports += [report] if report else []
            suspects |= {report.blames for report in reports if report.late}
            if any(report.blames is None for report in reports):
                break
        for report in reports:
            if report.blames is None:
                return report
        for member in silent:
            if member.rank in {report.blames for report in reports} | suspects:
                timeout = member.control.timeout
                return TransportTimeoutError(f"{member.name} does not answer within {timeout:g} s")
        return reports[0] if reports and not late else error


def _last_words(member: Member) -> NodeError | TransportError | None:
    """What a worker says after a failure: an error report, or other messages before its end."""
    try:
        while member.control.failed or member.control.wait(0.0):
            _, length = protocol.receive_header(member.control)
            if length > protocol.MAX_JSON:
                return None
            member.control.recv_into(bytearray(length))
    except NodeError as report:
        return report
    except TransportTimeoutError:
        return None
    except TransportError as error:
        return error
    return None


def _content(member: Member, kind: Kind, size: int) -> bytearray:
    """The content of the next message, of exactly this size."""
    content = protocol.receive(member.control, kind, size)
    if len(content) != size:
        raise ProtocolError(f"{member.name}: {kind.name} of {len(content)} bytes, expected {size}")
    return content


class _Forming:
    """A cluster in the making."""

    def __init__(
        self,
        addresses: Sequence[str],
        transport: Transport,
        secret: bytes | None,
        model: ModelFile,
        config: RunConfig,
        threads: Sequence[int],
        crowded: bool,
    ) -> None:
        self.addresses = addresses
        self.transport = transport
        self.secret = secret
        self.model = model
        self.config = config
        self.threads = threads
        self.crowded = crowded
        self.session = secrets.token_hex(16)
        self.members: list[Member] = []
        self.links: list[Link | None] = [None] * config.world_size
        self.opened: list[Link] = []

    def form(self, progress: bool) -> Coordinator:
        """All steps, each with all workers at once."""
        ranks = range(1, self.config.world_size)
        graphs = [graph_of(self.model.spec, self.config, rank, self.model.path) for rank in ranks]
        self.members = self._each(ranks, self._invite)
        cached = self._each(self.members, self._accepted)
        for member, link in zip(self.members, self._each(self.members, self._peer), strict=True):
            self.links[member.rank] = link
        self._distribute(graphs, cached, progress)
        self._each(self.members, self._ready)
        for member, graph in zip(self.members, graphs, strict=True):
            member.vocab = graph.shard.vocab
        communicator = communicator_of(graphs[0], self.config, self.links, 0, {})
        return Coordinator(self.members, self.links, communicator)

    def close(self) -> None:
        """Drop all connections."""
        for link in self.opened:
            link.close()

    def _each(self, items: Sequence[Any], step: Callable[[Any], T]) -> list[T]:
        """Do a step for all workers at once; the first error is raised when all are done."""
        with ThreadPoolExecutor(len(items)) as pool:
            return list(pool.map(step, items))

    def _connect(self, rank: int) -> Link:
        """A greeted connection to a worker."""
        address = self.addresses[rank - 1]
        name = f"worker {rank} ({address})"
        try:
            link = self.transport.connect(address, self.config.timeout)
        except TransportError as error:
            raise type(error)(f"worker {rank}: {error}") from error
        self.opened.append(link)
        link.peer, link.timeout, link.crowded = name, self.config.timeout, self.crowded
        protocol.greet(link, self.secret, caller=True)
        return link

    def _invite(self, rank: int) -> Member:
        """Send JOIN."""
        link = self._connect(rank)
        join = Join(
            session=self.session,
            rank=rank,
            addresses=("", *self.addresses),
            transport=self.transport.name,
            header=self.model.header.hex(),
            model=model_digest(self.model),
            threads=self.threads[rank],
            crowded=self.crowded,
            config=self.config,
        )
        protocol.send_json(link, Kind.JOIN, join.as_json())
        return Member(rank, self.addresses[rank - 1], link)

    def _accepted(self, member: Member) -> bool:
        """Wait for the answer; whether the worker has the weights already."""
        return bool(protocol.receive_json(member.control, Kind.ACCEPT).get("cached"))

    def _peer(self, member: Member) -> Link:
        """Make the data link."""
        link = self._connect(member.rank)
        protocol.send_json(link, Kind.PEER, {"session": self.session, "rank": 0})
        protocol.receive_json(link, Kind.ACCEPT)
        return link

    def _distribute(self, graphs: list[Graph], cached: list[bool], progress: bool) -> None:
        """Send weights to the workers that do not have them."""
        todo = [
            (member, graph)
            for member, graph, has in zip(self.members, graphs, cached, strict=True)
            if not has
        ]
        if not todo:
            return
        total = sum(graph_nbytes(graph) for _, graph in todo)
        lock = threading.Lock()
        with byte_bar(total, "sending weights", progress) as bar:

            def moved(count: int) -> None:
                with lock:
                    bar.update(count)

            self._each(todo, lambda pair: self._send(pair[0], pair[1], moved))

    def _send(self, member: Member, graph: Graph, moved: Callable[[int], None]) -> None:
        """Send one worker's weights; what it says when it hangs up is the error."""
        try:
            send_weights(member.control, self.model, graph, moved)
        except TransportTimeoutError:
            raise
        except TransportError as error:
            raise TransportError(f"{member.name}: {error}") from error

    def _ready(self, member: Member) -> None:
        """Wait until the worker can run; what it allocated, and its clock."""
        content = protocol.receive_json(member.control, Kind.READY)
        try:
            member.memory = {str(k): int(v) for k, v in content["memory"].items()}
            begin = time.monotonic_ns()
            protocol.send_json(member.control, Kind.ASK, {"ask": "clock"})
            clock = int(protocol.receive_json(member.control, Kind.ANSWER)["clock"])
            member.clock = clock - (begin + time.monotonic_ns()) // 2
        except ProtocolError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProtocolError(f"{member.name}: READY is not as expected: {error}") from error
