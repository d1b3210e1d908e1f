"""This machine and the workers that were found, as nodes of a cluster: measured, not described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dllama.cluster.layout import Layout
from dllama.cluster.speed.auto_shares import ALIKE, LINK, Chooser, weight_types
from dllama.cluster.speed.shares import differ
from dllama.cluster.speed.speeds import Measured, measure_nodes
from dllama.model.stored_model import StoredModel
from dllama.planning.description import Machine
from dllama.planning.plan import Sources
from dllama.planning.timing import LinkSpeed
from dllama.run_config import RunConfig


def measured_machines(
    model: StoredModel,
    layout: Layout,
    config: RunConfig,
    rate: float | None = None,
    latency: float | None = None,
    choose: bool = True,
) -> tuple[list[Machine], Sources]:
    """Ask all nodes how fast they are and what memory they have.

    Args:
        model: the open model.
        layout: the root and its workers.
        config: with equal shares.
        rate: bytes per second of each link; None for what is usually assumed.
        latency: seconds of a short message, one way; None for what the workers' links show.
        choose: give nodes the shares that a run would, and leave out those that it would.

    Returns:
        The nodes, the root first, and where their figures come from.

    Raises:
        TransportError, AuthenticationError, ProtocolError: a worker cannot be reached, refuses or
            cannot measure; the message names it.
    """
    nodes = measure_nodes(layout, weight_types(model), config.timeout)
    latencies, told = _latencies(nodes[1:], latency)
    links = [LinkSpeed(rate or LINK.rate, one) for one in (min(latencies), *latencies)]
    machines = [_machine(*one) for one in zip(nodes, links, strict=True)]
    sources = {
        "speeds": "measured by each node, which keeps them",
        "memory": "what each node says that a model can have now",
        "rate": f"{_gigabits(rate or LINK.rate)}, {'assumed' if rate is None else 'given'}",
        "latency": told,
        "shares": "given",
    }
    if not choose:
        return machines, sources
    chooser = Chooser(model, config, layout.threads, nodes)
    if not differ(chooser.speeds, ALIKE):
        sources["shares"] = "equal, since speeds differ by less than 10 %"
        return [replace(one, share=1.0) for one in machines], sources
    choice = chooser.choose()
    sources["shares"] = "by measured speed, as of a run"
    pairs = zip(choice.ranks, choice.shares, strict=True)
    return [replace(machines[rank], share=share) for rank, share in pairs], sources


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
