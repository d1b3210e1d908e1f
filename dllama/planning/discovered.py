"""This machine and the workers that were found, as nodes of a cluster: measured, not described."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dllama.cluster.auto_shares import LINK
from dllama.cluster.layout import Layout
from dllama.cluster.speeds import Measured, measure_nodes
from dllama.model.weight_types import WeightType
from dllama.planning.description import Machine
from dllama.planning.plan import Sources
from dllama.planning.timing import LinkSpeed


def measured_machines(
    layout: Layout,
    types: Iterable[WeightType],
    timeout: float,
    rate: float | None = None,
    latency: float | None = None,
) -> tuple[list[Machine], Sources]:
    """Ask all nodes how fast they are and what memory they have.

    Args:
        layout: the root and its workers.
        types: of weights.
        timeout: seconds after which a worker that does not reply is given up.
        rate: bytes per second of each link; None for what is usually assumed.
        latency: seconds of a short message, one way; None for what the workers' links show.

    Returns:
        The nodes, the root first, and where their figures come from.

    Raises:
        TransportError, AuthenticationError, ProtocolError: a worker cannot be reached, refuses or
            cannot measure; the message names it.
    """
    nodes = measure_nodes(layout, types, timeout)
    latencies, told = _latencies(nodes[1:], latency)
    sources = {
        "speeds": "measured by each node, which keeps them",
        "memory": "what each node says that a model can have now",
        "rate": f"{_gigabits(LINK.rate if rate is None else rate)}, "
        f"{'assumed' if rate is None else 'given'}",
        "latency": told,
    }
    links = [LinkSpeed(rate or LINK.rate, one) for one in (min(latencies), *latencies)]
    return [_machine(*one) for one in zip(nodes, links, strict=True)], sources


def _machine(node: Measured, link: LinkSpeed) -> Machine:
    return Machine(node.name, node.speed, link, node.memory or None, node.speed.threads)


def _latencies(workers: Sequence[Measured], given: float | None) -> tuple[list[float], str]:
    """The latency of the link between the root and each worker, and where it comes from."""
    if given is not None:
        return [given] * len(workers), f"{_microseconds(given)}, given"
    found = [one.round_trip / 2 for one in workers if one.round_trip is not None]
    if len(found) < len(workers):
        return [LINK.latency] * len(workers), f"{_microseconds(LINK.latency)}, assumed"
    ends = dict.fromkeys(map(_microseconds, (min(found), max(found))))
    return found, f"{' to '.join(ends)}, measured: half of TCP's round trip from the root"


def _gigabits(rate: float) -> str:
    return f"{8e-9 * rate:g} Gbit/s"


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.4g} us"
