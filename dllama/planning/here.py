"""This machine as nodes of a cluster: measured, not described."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dllama import transports
from dllama._kernels import cpu
from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.comm.link import Link
from dllama.cluster.layout import LOCAL_TRANSPORT, thread_count
from dllama.model.weight_types import WeightType
from dllama.planning.description import Machine
from dllama.planning.timing import LinkSpeed
from dllama.runtime.kept_speed import node_speed
from dllama.runtime.message_time import both_ends
from dllama.runtime.speed import KernelSpeed

ALONE = LinkSpeed(1.0, 0.0)  # of a node without others; nobody uses it
TIMEOUT = 5.0  # seconds without a byte
SHORT, LONG = 64, 1 << 14  # numbers of a message: of few, and of many as for a prompt
TIMES = {SHORT: 300, LONG: 31}


class ThisMachine:
    """Nodes of this machine, which share its processors and its memory.

    Args:
        types: of weights.
        threads: of each node; None for its part of the processors.
    """

    def __init__(self, types: Iterable[WeightType], threads: int | None) -> None:
        self._types, self._threads = list(types), threads

    def __call__(self, count: int) -> list[Machine]:
        """So many nodes; what was never measured is measured, and kept."""
        threads = thread_count(self._threads, count)
        whole = node_speed(self._types, min(count * threads, len(cpu.cores())))
        kernels = {
            kind: KernelSpeed(one.bandwidth / count, one.compute / count)
            for kind, one in whole.kernels.items()
        }
        speed = replace(node_speed((), threads), kernels=kernels)
        link = self._link(speed.message) if count > 1 else ALONE
        return [Machine(f"node {rank}", speed, link, None, threads) for rank in range(count)]

    def _link(self, message: float) -> LinkSpeed:
        """The link between two nodes whose processors take so long for a message."""
        return replace(self._whole, latency=max(0.0, self._whole.latency - message))

    @cached_property
    def _whole(self) -> LinkSpeed:
        return measure_link(LOCAL_TRANSPORT)


def measure_link(name: str) -> LinkSpeed:
    """Measure a transport between two threads of this machine; its latency has all of a message."""
    transport = transports.get(name)
    with tempfile.TemporaryDirectory(prefix="dllama-") as folder:
        near, far = both_ends(transport, transport.local_address(Path(folder), 0))
    with contextlib.closing(near), contextlib.closing(far), ThreadPoolExecutor(1) as other:
        latency, whole = [_both(other, near, far, numbers) for numbers in (SHORT, LONG)]
    return LinkSpeed(4 * LONG / max(whole - latency, 1e-9), latency, 0)


def _both(other: ThreadPoolExecutor, near: Link, far: Link, numbers: int) -> float:
    """Seconds of an all-reduce between this thread and another one."""
    begun = other.submit(exchange, [far, None], 1, numbers)
    found = exchange([None, near], 0, numbers)
    begun.result(2 * TIMEOUT)
    return found


def exchange(links: Sequence[Link | None], rank: int, numbers: int = SHORT) -> float:
    """Measure an all-reduce of nodes, which all call this.

    Args:
        links: to the other nodes by rank; None for this one.
        rank: of this node.
        numbers: float32, that each sends to each other one: SHORT or LONG.

    Returns:
        Seconds, the median of many.
    """
    communicator = Communicator(
        list(links), rank, dim=numbers, max_rows=1, wire="f32", algorithm="exchange",
        timeout=TIMEOUT,
    )  # fmt: skip
    row, total = np.zeros((1, numbers), np.float32), np.zeros((1, numbers), np.float32)
    taken = []
    for _ in range(TIMES[numbers]):
        begin = time.perf_counter()
        communicator.all_reduce(row, total)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)
