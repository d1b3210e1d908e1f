"""The measured speed of this machine, kept in the user's cache folder from start to start.

A file holds what was measured with a number of threads on one machine, with one version of dllama
and one set of kernels, under one limit of processor time. Delete it to measure anew.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dllama._kernels import cpu
from dllama.model.weight_types import WeightType
from dllama.runtime.kept_file import kept_path, read_kept, write_kept
from dllama.runtime.speed import NodeSpeed, measure
from dllama.version import __version__

log = logging.getLogger("dllama.engine")

FORMAT = 2  # of a file: 2 has messages
CGROUPS = Path("/sys/fs/cgroup")


def node_speed(types: Iterable[WeightType], threads: int) -> NodeSpeed:
    """Return the speed of this machine, as it was measured once; what is missing is measured.

    Args:
        types: of weights.
        threads: that compute.
    """
    wanted = list(dict.fromkeys(types))
    kept = kept_speed(threads)
    missing = [kind for kind in wanted if kept is None or kind not in kept.kernels]
    if missing or kept is None:
        log.info("measuring the kernels of this machine, once")
        found = measure(missing, threads, kept)
        kept = kept_speed(threads)  # another process may have measured the same meanwhile
        kernels = {**found.kernels, **(kept.kernels if kept else {})}
        kept = replace(kept or found, kernels=kernels)
        write_kept(speed_file(threads), kept.as_json())
    return replace(kept, kernels={kind: kept.kernels[kind] for kind in wanted})


def kept_speed(threads: int) -> NodeSpeed | None:
    """Return what was measured with so many threads; None if nothing was. It measures nothing."""

    def parse(content: object) -> NodeSpeed:
        speed = NodeSpeed.from_json(content)
        if speed.threads != threads:
            raise ValueError(f"threads: found {speed.threads}, expected {threads}")
        return speed

    return read_kept(speed_file(threads), parse)


def speed_file(threads: int) -> Path:
    """Return the file in which the speed of this machine is kept."""
    return kept_path("speed", [FORMAT, *machine(), threads])


def machine() -> list[object]:
    """Return what any measurement depends on."""
    return [
        __version__, platform.node(), _model(), len(cpu.allowed()), _limits(), cpu.isa()
    ]  # fmt: skip


def _model() -> str:
    """The processor as Linux calls it; "" if it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = ("model name", "CPU part", "CPU implementer")
    return "; ".join(sorted({line for line in lines if line.startswith(names)}))


def _limits() -> list[str]:
    """The limits of processor time of this process and those around it, as Linux tells them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        folder = CGROUPS / (controllers and "cpu")
        for inner in (Path(path), *Path(path).parents):
            for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
                with contextlib.suppress(OSError):
                    found.append((folder / str(inner).lstrip("/") / name).read_text().strip())
    return found
