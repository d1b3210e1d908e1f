"""NUMA domains: processors of this machine with memory of their own, as Linux tells them.

A core reads the memory of its own domain faster than that of others. A page of memory belongs to
the domain of the core that writes to it first. So a node whose cores are all in one domain, before
it loads weights, reads only near memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from dllama._kernels import cpu

NODES = Path("/sys/devices/system/node")

Core = list[int]  # the CPUs of a physical core


def domains(folder: Path | None = None) -> list[list[int]]:
    """Return the CPUs that this process may use, a list for each domain that has any.

    Args:
        folder: what stands for /sys/devices/system/node.

    Returns:
        One list if the system says nothing, or leaves CPUs out.
    """
    allowed = cpu.allowed()
    paths = (folder or NODES).glob("node[0-9]*/cpulist")
    try:
        listed = [_cpus(path) for path in sorted(paths, key=_number)]
    except (OSError, ValueError):
        return [allowed]
    found = [[one for one in allowed if one in numbers] for numbers in listed]
    return [own for own in found if own] if sorted(chain(*found)) == allowed else [allowed]


def domain_cores(folder: Path | None = None) -> list[list[Core]]:
    """Return the physical cores that this process may use, by domain; folder: see `domains`."""
    cores = cpu.cores()
    by_domain = [[core for core in cores if core[0] in numbers] for numbers in domains(folder)]
    return [own for own in by_domain if own]


def divide_cores(threads: Sequence[int], folder: Path | None = None) -> list[list[int]] | None:
    """Return CPU numbers for every node, disjoint, and in one domain each if they fit.

    Nodes spread over domains, since each has its own path to memory.

    Args:
        threads: of every node by rank.
        folder: see `domains`.

    Returns:
        By rank; None if there are fewer cores than threads.
    """
    free = domain_cores(folder)
    if sum(threads) > sum(map(len, free)) or not hasattr(os, "sched_setaffinity"):
        return None
    cores = _within_domains(threads, free) or _in_turn(threads, list(chain(*free)))
    return [[number for core in own for number in core] for own in cores]


def _within_domains(threads: Sequence[int], by_domain: list[list[Core]]) -> list[list[Core]] | None:
    """Cores of one domain for every node, the largest nodes first; None where they do not fit."""
    free = [list(own) for own in by_domain]
    found: list[list[Core]] = [[] for _ in threads]
    for rank in sorted(range(len(threads)), key=lambda one: -threads[one]):
        most, count = max(free, key=len), threads[rank]
        if len(most) < count:
            return None
        found[rank], most[:count] = most[:count], []
    return found


def _in_turn(threads: Sequence[int], cores: list[Core]) -> list[list[Core]]:
    """One node's cores after those of another."""
    ends = [sum(threads[: rank + 1]) for rank in range(len(threads))]
    return [cores[end - count : end] for end, count in zip(ends, threads, strict=True)]


def _number(path: Path) -> int:
    """The number of the domain whose list of CPUs this is."""
    return int(path.parent.name.removeprefix("node"))


def _cpus(path: Path) -> set[int]:
    """The numbers in a list such as 0-3,8."""
    parts = [part for part in path.read_text().strip().split(",") if part]
    bounds = [[int(number) for number in part.split("-")] for part in parts]
    return {number for bound in bounds for number in range(bound[0], bound[-1] + 1)}
