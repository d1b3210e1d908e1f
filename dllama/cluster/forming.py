"""How the root forms a cluster: it invites workers, connects to them and sends their weights."""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from dllama._kernels.comm.link import Link
from dllama.checks import is_flag, shown
from dllama.cluster import names, protocol
from dllama.cluster.at_once import at_once
from dllama.cluster.coordinator import Coordinator
from dllama.cluster.member import Member
from dllama.cluster.messages import Join
from dllama.cluster.protocol import Kind
from dllama.cluster.weights.sent_weights import SentWeights
from dllama.cluster.weights.weight_transfer import nobody, send_weights
from dllama.errors import ProtocolError, TransportError, TransportTimeoutError
from dllama.graph.graph import Graph
from dllama.graph.weights import graph_nbytes
from dllama.model.header import write_header
from dllama.model.stored_model import StoredModel
from dllama.progress import SILENT, Progress, byte_bar
from dllama.run_config import RunConfig
from dllama.runtime.node import MEMORY, communicator_of, graph_of
from dllama.transports import Transport

LEAST = 0.01  # seconds that a connection may take, however late it is
S = TypeVar("S")
T = TypeVar("T")


def form_cluster(
    addresses: Sequence[str],
    given_names: Sequence[str],
    transport: Transport,
    secret: bytes | None,
    model: StoredModel,
    config: RunConfig,
    *,
    threads: Sequence[int],
    crowded: bool = False,
    plain: bool = False,
    progress: Progress = SILENT,
) -> Coordinator:
    """Connect to workers and give each its weights; close the result.

    Args:
        addresses: of the workers, rank 1 first.
        given_names: of the workers, as far as they are known before they are asked.
        transport: how nodes are connected.
        secret: what nodes prove to each other; None for no proof.
        model: the open model.
        config: what all nodes agree on.
        threads: by rank, 0 for what a worker was started with.
        crowded: whether nodes share processors.
        plain: do without TLS.
        progress: who is told how far weights are sent.

    Raises:
        TransportError, AuthenticationError, ProtocolError: a worker cannot be reached, refuses or
            fails. The message names it; nothing stays open.
    """
    forming = _Forming(
        addresses, given_names, transport, secret, model, config, threads, crowded, plain
    )
    try:
        return forming.form(progress)
    except BaseException:
        forming.close()
        raise


class _Forming:
    """A cluster that is being formed; the arguments are those of form_cluster."""

    def __init__(
        self,
        addresses: Sequence[str],
        given_names: Sequence[str],
        transport: Transport,
        secret: bytes | None,
        model: StoredModel,
        config: RunConfig,
        threads: Sequence[int],
        crowded: bool,
        plain: bool,
    ) -> None:
        self.addresses = addresses
        self.names = given_names or [""] * len(addresses)
        self.transport = transport
        self.secret = secret
        self.model = model
        self.config = config
        self.threads = threads
        self.crowded = crowded
        self.plain = plain
        self.session = secrets.token_hex(16)
        self.sent = SentWeights(model)
        self.members: list[Member] = []
        self.links: list[Link | None] = [None] * config.world_size
        self.opened: list[Link] = []
        self.since = time.monotonic()
        self.ended = False

    def form(self, progress: Progress) -> Coordinator:
        """Do one thing after another, each with all workers at once.

        All until the workers are connected has to be done within the timeout. Then each piece of
        the weights has.
        """
        ranks = range(1, self.config.world_size)
        graphs = [graph_of(self.model.spec, self.config, rank, self.model.path) for rank in ranks]
        self.members = self._each(graphs, self._invite)
        accepted = self._each(self.members, self._accepted)
        for member, link in zip(
            self.members, self._each(self.members, self._data_link), strict=True
        ):
            self.links[member.rank] = link
        for link in self.opened:
            link.allow(math.inf)
        self._equip(graphs, accepted, progress)
        for member, graph in zip(self.members, graphs, strict=True):
            member.vocab = graph.shard.vocab
        communicator = communicator_of(graphs[0], self.config, self.links, 0, {})
        return Coordinator(self.members, self.links, communicator)

    def close(self) -> None:
        """Close all connections."""
        self.interrupt()
        for link in self.opened:
            link.close()

    def interrupt(self) -> None:
        """Make all threads end that wait for a worker."""
        self.ended = True
        for link in list(self.opened):
            link.interrupt()

    def _each(self, items: Sequence[S], call: Callable[[S], T]) -> list[T]:
        """Call a function for all items at once; the first error ends all calls and is raised."""
        return at_once(call, items, self.interrupt)

    def _connect(self, rank: int, name: str = "") -> Link:
        """Connect to a worker and greet it."""
        address = self.addresses[rank - 1]
        try:
            left = self.since + self.config.timeout - time.monotonic()
            link = self.transport.connect(address, max(LEAST, left))
        except TransportError as error:
            who = f"worker {rank} ({name})" if name else f"worker {rank}"
            named = type(error)(f"{who}: {error}")
            named.rank = rank
            raise named from error
        self.opened.append(link)
        if self.ended:  # a signal cut this short
            link.close()
        link.peer = names.worker(rank, name, address)
        link.timeout, link.crowded = self.config.timeout, self.crowded
        link.allow(link.timeout, self.since)
        protocol.greet(link, self.secret, caller=True, plain=self.plain)
        return link

    def _invite(self, graph: Graph) -> Member:
        """Send JOIN on a new control link to the worker of a graph."""
        rank = graph.shard.rank
        link = self._connect(rank, self.names[rank - 1])
        join = Join(
            session=self.session,
            name=names.host_name(),
            rank=rank,
            addresses=("", *self.addresses),
            transport=self.transport.name,
            header=write_header(self.model.spec, self.model.path).hex(),
            weights=self.sent.digest(graph),
            threads=self.threads[rank],
            crowded=self.crowded,
            config=self.config,
        )
        protocol.send_json(link, Kind.JOIN, join.as_json())
        return Member(rank, self.addresses[rank - 1], link)

    def _accepted(self, member: Member) -> dict[str, Any]:
        """Wait for ACCEPT, note the worker's name, and return what it says of its weights."""
        content = protocol.receive_json(member.control, Kind.ACCEPT)
        member.given_name = names.clean(content.get("name"))
        member.control.peer = member.name
        return content

    def _data_link(self, member: Member) -> Link:
        """Connect the data link."""
        link = self._connect(member.rank, member.given_name)
        protocol.send_json(link, Kind.PEER, {"session": self.session, "rank": 0})
        protocol.receive_json(link, Kind.ACCEPT)
        return link

    def _equip(
        self, graphs: list[Graph], accepted: list[dict[str, Any]], progress: Progress
    ) -> None:
        """Send weights to the workers that lack them, and wait until all are ready.

        Those that are ready are asked for a sign of life as long as others are not.
        """
        lock, unready, all_ready = threading.Lock(), set(self.members), threading.Event()
        sends = not all(accept.get("cached") for accept in accepted)
        what = "sending weights" if sends else "workers load weights"
        with byte_bar(sum(map(graph_nbytes, graphs)), what, progress) as count:

            def moved(size: int) -> None:
                with lock:
                    count(size)

            def equip(job: tuple[Member, Graph, dict[str, Any]]) -> None:
                member, graph, accept = job
                self._give(member, graph, accept, moved)
                self._ready(member)
                with lock:
                    unready.remove(member)
                    if not unready:
                        all_ready.set()
                self._stay_in_touch(member, all_ready)

            self._each(list(zip(self.members, graphs, accepted, strict=True)), equip)

    def _stay_in_touch(self, member: Member, done: threading.Event) -> None:
        """Notice within the timeout if a worker falls silent while others are awaited."""
        member.control.timeout = self.config.patience
        while not done.wait(self.config.timeout - self.config.patience) and not self.ended:
            self._ask_clock(member)
        member.control.timeout = self.config.timeout

    def _give(
        self, member: Member, graph: Graph, accept: dict[str, Any], moved: Callable[[int], None]
    ) -> None:
        """Give one worker its weights, unless it has them."""
        if accept.get("cached") and self._has(member, graph_nbytes(graph), moved):
            return
        digest, keeps = hashlib.sha256(), accept.get("keeps")
        try:
            send_weights(
                member.control, self.model, graph, moved, digest.update if keeps else nobody
            )
        except TransportTimeoutError:
            raise
        except TransportError as error:
            raise TransportError(f"{member.name}: {error}") from error
        if keeps:
            self.sent.remember(graph, digest.hexdigest())

    def _has(self, member: Member, nbytes: int, moved: Callable[[int], None]) -> bool:
        """Wait while a worker reads weights that it keeps; False if they are damaged."""
        done = 0
        while True:
            content = protocol.receive_json(member.control, Kind.WEIGHTS)
            have, now = content.get("have"), content.get("loaded")
            if is_flag(have):
                moved((nbytes if have else 0) - done)
                return have
            if not isinstance(now, int) or not done < now <= nbytes:
                raise ProtocolError(f"{member.name}: WEIGHTS is not as expected: {shown(content)}")
            moved(now - done)
            done = now

    def _ready(self, member: Member) -> None:
        """Wait for READY, and note the worker's memory and clock."""
        content = protocol.receive_json(member.control, Kind.READY)
        with _expecting(member, Kind.READY):
            member.memory = {kind: int(content["memory"][kind]) for kind in MEMORY}
        begin = time.monotonic_ns()
        clock = self._ask_clock(member)
        member.clock = clock - (begin + time.monotonic_ns()) // 2

    def _ask_clock(self, member: Member) -> int:
        """Ask a worker for the nanoseconds of its clock."""
        protocol.send_json(member.control, Kind.ASK, {"ask": "clock"})
        content = protocol.receive_json(member.control, Kind.REPLY)
        with _expecting(member, Kind.REPLY):
            return int(content["clock"])


@contextmanager
def _expecting(member: Member, kind: Kind) -> Iterator[None]:
    """Turn errors of a message's content into a ProtocolError that names the worker."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ProtocolError(f"{member.name}: {kind.name} is not as expected: {error}") from error
