"""Where the nodes of a cluster are, how they are connected, and how many threads each has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dllama import options, transports
from dllama._kernels import cpu
from dllama.cluster.domains import domain_cores
from dllama.cluster.secrets import VARIABLE, check_length, read_secret
from dllama.errors import ConfigError
from dllama.run_config import OF_TRANSPORT
from dllama.transports import Launched, Transport

if TYPE_CHECKING:
    from dllama.cluster.finding.found import Found

log = logging.getLogger("dllama.engine")

LOCAL_TRANSPORT = "unix"


@dataclass(frozen=True)
class Layout:
    """Where the nodes are: at addresses, or all on this machine.

    Args:
        transport: how nodes are connected; None if there is only one.
        addresses: of workers that run already; empty for workers on this machine.
        secret: what nodes prove to each other; None for no proof.
        threads: of every node by rank; 0 for what a worker was started with.
        crowded: whether nodes that a launcher started share processors.
        names: of the workers, where they are known.
        whole: whether these are all nodes that a launcher started.
        plain: nodes do without TLS.
        alone: threads of one process on this machine that may turn out faster than these nodes; 0
            if that is settled.
    """

    transport: Transport | None
    addresses: tuple[str, ...] = ()
    secret: bytes | None = None
    threads: tuple[int, ...] = (1,)
    crowded: bool = False
    names: tuple[str, ...] = ()
    whole: bool = False
    plain: bool = False
    alone: int = 0

    @classmethod
    def of(
        cls,
        nodes: int | str,
        workers: Sequence[str],
        transport: str | None,
        threads: int | Sequence[int | None] | None,
        secret_file: str | Path | None,
        discover: bool = False,
        plain: bool = False,
    ) -> Layout:
        """Return the layout that options of LLM() ask for.

        Raises:
            ConfigError: an option is wrong.
            TransportError: too few workers are found.
        """
        if nodes == options.NODES.word:
            return cls._of_domains(workers, transport, threads, discover)
        found: list[Found] = []
        if options.DISCOVER.argument(discover):
            found = found_workers(nodes, workers, transport, secret_file, plain)
            workers = [one.address for one in found]
        started = transports.get(transport).launched() if transport else None
        if started and not workers:
            workers = started.addresses[1:]
        count = node_count(nodes, workers)
        chosen = transport_of(transport, count, workers)
        if started and chosen:
            return cls._launched(chosen, started, workers, threads)
        by_rank = node_threads(threads, count, local=not workers)
        secret = read_secret(secret_file)
        for address in workers:
            check_length(secret, address, _giver(secret_file))
        names = tuple(one.name for one in found)
        plain = options.PLAIN.require(plain)
        return cls(chosen, tuple(workers), secret, tuple(by_rank), names=names, plain=plain)

    @classmethod
    def _of_domains(
        cls,
        workers: Sequence[str],
        transport: str | None,
        threads: int | Sequence[int | None] | None,
        discover: bool,
    ) -> Layout:
        """Return a node for each NUMA domain, if there are several."""
        chosen = transports.get(transport or LOCAL_TRANSPORT)
        if workers or options.DISCOVER.argument(discover) or chosen.launched():
            raise ConfigError(
                "nodes is auto, which is for this machine alone, without workers, discover or "
                "a launcher such as mpirun"
            )
        if isinstance(threads, Sequence):
            raise ConfigError(
                f"threads are {list(threads)}, expected one number for all nodes, since nodes is "
                "auto"
            )
        total, parts = thread_count(threads), domain_cores()
        each = min(total // len(parts), *map(len, parts)) if len(parts) > 1 else 0
        if each == 0:
            return cls(None, threads=(total,))
        return cls(chosen, threads=(each,) * len(parts), alone=total)

    @classmethod
    def _launched(
        cls,
        transport: Transport,
        started: Launched,
        workers: Sequence[str],
        threads: int | Sequence[int | None] | None,
    ) -> Layout:
        """Return the layout of nodes that a launcher started. It decides who they are."""
        if started.rank:
            raise ConfigError(
                f"transport {transport.name}: this process is rank {started.rank}, but rank 0 is "
                "the root"
            )
        by_rank = node_threads(threads, len(workers) + 1, local=False, sharers=started.sharers)
        crowded = by_rank[0] * started.sharers > len(cpu.cores())
        whole = len(by_rank) == len(started.addresses)
        return cls(transport, tuple(workers), None, tuple(by_rank), crowded, whole=whole)

    def check_sums(self, all_reduce: str) -> None:
        """ConfigError if the transport cannot add the numbers of these nodes itself."""
        if all_reduce == OF_TRANSPORT and self.world_size > 1 and not self.whole:
            raise ConfigError(
                f"all_reduce is {all_reduce}, which needs --transport mpi and all ranks as nodes"
            )

    def only(self, ranks: Sequence[int]) -> Layout:
        """Return the layout without all workers but those of some ranks."""
        workers = [rank - 1 for rank in ranks if rank]
        return replace(
            self,
            addresses=tuple(self.addresses[worker] for worker in workers),
            names=tuple(self.names[worker] for worker in workers) if self.names else (),
            threads=tuple(self.threads[rank] for rank in ranks),
        )

    @property
    def world_size(self) -> int:
        """Number of nodes."""
        return len(self.threads)


def found_workers(
    nodes: int | str | None,
    workers: Sequence[str],
    transport: str | None,
    secret_file: str | Path | None,
    plain: bool,
) -> list[Found]:
    """Return the workers that `discover` finds, for the other options of LLM().

    Raises:
        ConfigError: another option does not go with it.
        TransportError: there are none, or fewer than `nodes` says.
    """
    from dllama.cluster.finding.discovery import find_workers  # whose library takes a while to load

    if workers:
        raise ConfigError("workers and discover: only one of the two can be given")
    if transport is not None and transports.get(transport).scheme != transports.DEFAULT_SCHEME:
        raise ConfigError(f"discover finds workers over TCP, which {transport} does not use")
    count: int = options.NODES.argument(nodes)
    wanted = count - 1 if count > 1 else None
    return find_workers(read_secret(secret_file), wanted, _giver(secret_file), plain)


def _giver(secret_file: str | Path | None) -> str:
    """Return what gives the secret, for messages."""
    return f"secret_file {secret_file}" if secret_file else VARIABLE


def node_count(nodes: int | str, workers: Sequence[str]) -> int:
    """Return how many nodes there are: the workers and this one, or `nodes` on this machine."""
    count: int = options.NODES.argument(nodes)
    if workers and count not in (1, len(workers) + 1):
        raise ConfigError(f"nodes is {count}, but there are {len(workers)} workers and the root")
    if isinstance(workers, str):
        raise ConfigError(f"workers is {workers!r}, expected a list of addresses")
    for address in workers:
        if list(workers).count(address) > 1:
            raise ConfigError(f"workers: {address} is given twice")
    return len(workers) + 1 if workers else count


def transport_of(name: str | None, nodes: int, workers: Sequence[str]) -> Transport | None:
    """Return the transport, chosen by the first address unless named; None for one node."""
    if name is None and workers:
        chosen = transports.of_address(workers[0])
    else:
        chosen = transports.get(name or LOCAL_TRANSPORT)
    for address in workers:
        if transports.scheme_of(address) != chosen.scheme:
            raise ConfigError(
                f"workers: {address} is no address of transport {chosen.name}, whose scheme "
                f"is {chosen.scheme}"
            )
    return chosen if nodes > 1 else None


def node_threads(
    threads: int | Sequence[int | None] | None, nodes: int, local: bool, sharers: int = 1
) -> list[int]:
    """Return the threads of every node.

    Args:
        threads: one number for each node, or one for all nodes of this machine; None for the
            default.
        nodes: how many.
        local: whether all of them are on this machine.
        sharers: if not, how many of them share this one's cores.

    Returns:
        Threads by rank; 0 leaves the choice to a worker that runs already.
    """
    if isinstance(threads, Sequence):
        if len(threads) != nodes:
            raise ConfigError(f"threads are {list(threads)}, expected {nodes}, one for each node")
        given = list(threads)
    else:
        given = [threads] * nodes if local else [threads] + [None] * (nodes - 1)
    shared = nodes if local else sharers
    own = [thread_count(count, shared) for count in (given if local else given[:1])]
    return own + [options.THREADS.argument(count) or 0 for count in given[len(own) :]]


def thread_count(threads: int | None, local_nodes: int = 1) -> int:
    """Return the threads of a node of this machine.

    Args:
        threads: None for this node's part of the cores.
        local_nodes: nodes that share the cores.

    Returns:
        The number; 1 if the kernels were built without OpenMP.
    """
    count: int | None = options.THREADS.argument(threads)
    if count is None:
        return max(1, cpu.default_threads() // local_nodes)
    if count > 1 and not cpu.openmp():
        log.warning("threads is %d, but the kernels were built without OpenMP: using 1", count)
        return 1
    return count
