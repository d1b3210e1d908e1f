"""How fast a node is: what its kernels reach with each weight type, measured in about a second.

A token reads all weights of a node, so its time follows from the bytes that the kernels read per
second with one row. A prompt multiplies many rows at a time: its time follows from multiply-adds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dllama._kernels.executor import Executor
from dllama._kernels.packed import PackedMatrix, Pool
from dllama._kernels.tasks import Storage
from dllama.checks import shown
from dllama.graph.graph import Buffer, CacheShape, Task
from dllama.model.weight_types import WeightType
from dllama.options.option import Option, checked
from dllama.runtime.message_time import message_seconds
from dllama.runtime.pauses import PAUSES, pauses, sustained

ROWS, COLUMNS = 2048, 4096  # of a matrix
BATCH = 64  # rows of a batch of a prompt; more are not faster
PASS_BYTES = 32 << 20  # of the weights that a pass reads: short, so that pauses are seen
SMALL, SMALL_COUNT = 64, 256  # rows and columns of small matrices, and how many there are
CACHES = 4  # the matrices take this many times the bytes of the last cache
LEAST_BYTES, MOST_BYTES = 64 << 20, 512 << 20
SHORT, LONG = 0.15, 0.6  # seconds of a measurement, and of one that finds pauses
ROUNDS = 2  # measurements; the fastest counts, since other programs only slow a machine down


@dataclass(frozen=True)
class KernelSpeed:
    """What the matmul with weights of one type reaches.

    Args:
        bandwidth: bytes of weights per second with one row, as for a token. The weights are not in
            caches.
        compute: multiply-adds per second with many rows, as for a prompt.
    """

    bandwidth: float
    compute: float


@dataclass(frozen=True)
class NodeSpeed:
    """What the kernels of a node reach with a number of threads.

    Args:
        threads: that computed.
        stage: seconds that each stage of a pass takes besides: handing items to threads.
        message: seconds of a processor that a short message takes, at both ends together.
        kernels: by weight type.
    """

    threads: int
    stage: float
    message: float
    kernels: Mapping[WeightType, KernelSpeed]

    def as_json(self) -> dict[str, Any]:
        """Return what from_json reads."""
        kernels = [
            {"type": kind.name.lower(), "bandwidth": one.bandwidth, "compute": one.compute}
            for kind, one in self.kernels.items()
        ]
        own = {"threads": self.threads, "stage": self.stage, "message": self.message}
        return {**own, "kernels": kernels}

    @classmethod
    def from_json(cls, content: object) -> NodeSpeed:
        """Check a JSON object of a file or a peer; ValueError says what is wrong."""
        found = _object(content)
        kernels = found.get("kernels")
        if not isinstance(kernels, list):
            raise ValueError(f"kernels: found {shown(kernels)}, expected a list")
        rows = [checked(KERNEL_FIELDS, _object(one)) for one in kernels]
        speeds = {WeightType[row.pop("type").upper()]: KernelSpeed(**row) for row in rows}
        return cls(**checked(FIELDS, found), kernels=speeds)


FIELDS = (
    Option("threads", int, "that computed", least=1),
    Option("stage", float, "seconds of a stage", least=0, most=1),
    Option("message", float, "seconds of a message", least=0, most=1),
)
KERNEL_FIELDS = (
    Option("type", str, "of weights", choices=tuple(kind.name.lower() for kind in WeightType)),
    Option("bandwidth", float, "bytes per second", least=1, most=1e18),
    Option("compute", float, "multiply-adds per second", least=1, most=1e18),
)


def _object(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"found {shown(content)}, expected an object")
    return content


def measure(types: Iterable[WeightType], threads: int, known: NodeSpeed | None = None) -> NodeSpeed:
    """Measure the kernels of this machine, but for what is known.

    It takes less than a second for each type, or 2.5 where the system limits processor time, 0.3 s
    for messages, and 64 to 512 MiB of memory. The rates are those that last: pauses count.

    Args:
        types: of weights.
        threads: that compute.
        known: what was measured before with as many threads. The result has it, too.
    """
    kernels = dict(known.kernels) if known else {}
    new = [kind for kind in dict.fromkeys(types) if kind not in kernels]
    kernels.update((kind, _kernel_speed(kind, threads)) for kind in new)
    if known:
        return replace(known, kernels=kernels)
    return NodeSpeed(threads, _stage_seconds(threads), message_seconds(2 * SHORT), kernels)


def _kernel_speed(kind: WeightType, threads: int) -> KernelSpeed:
    """Measure the matmul with weights of one type."""
    nbytes = kind.nbytes(ROWS * COLUMNS)
    each = -(-PASS_BYTES // nbytes)
    count = max(2, -(-_room() // (each * nbytes)))  # of passes over different matrices
    matrices = _matrices(kind, (ROWS, COLUMNS), count * each, threads)
    parts = [matrices[first : first + each] for first in range(0, len(matrices), each)]
    read = each * matrices[0].nbytes / _seconds(parts, 1, threads)
    multiplied = BATCH * ROWS * COLUMNS / _seconds([matrices[:1]], BATCH, threads)
    return KernelSpeed(read, multiplied)


def _stage_seconds(threads: int) -> float:
    """Measure a stage in which there is little to do."""
    kind = WeightType.Q80
    matrices = _matrices(kind, (SMALL, SMALL), SMALL_COUNT, threads)
    return _seconds([matrices], 1, threads) / SMALL_COUNT


def _matrices(
    kind: WeightType, shape: tuple[int, int], count: int, threads: int
) -> list[PackedMatrix]:
    """Matrices of zeros on pages of their own.

    One row of every panel is written, so that no two pages of memory are the same one.
    """
    rows, cols = shape
    whole = -(-cols // kind.block_size) * kind.block_size
    zeros = np.zeros((rows // 16, kind.nbytes(whole)), np.uint8)
    pool = Pool(count * PackedMatrix(rows, cols, kind).nbytes)
    matrices = [PackedMatrix(rows, cols, kind, 0, pool) for _ in range(count)]
    for matrix in matrices:
        matrix.fill(0, zeros, 1, 16, threads)
    return matrices


@dataclass(frozen=True)
class _Work:
    """A graph for the executor: one row times each of some matrices."""

    buffers: tuple[Buffer, ...]
    tasks: tuple[Task, ...]
    caches: tuple[CacheShape, ...] = ()
    vocab_size: int = 1


def _executor(matrices: Sequence[PackedMatrix], rows: int, threads: int) -> Executor:
    """What multiplies some rows by all matrices, which have the same shape."""
    first = matrices[0]
    storage = Storage.Q80 if first.quantised else Storage.FLOAT
    names = [str(number) for number in range(len(matrices))]
    work = _Work(
        buffers=(Buffer("x", first.cols, storage), Buffer("logits", first.rows)),
        tasks=tuple(Task("matmul", "x", "logits", name) for name in names),
    )
    return Executor(
        work, dict(zip(names, matrices, strict=True)), {}, {}, threads=threads, max_rows=rows,
        max_logits=rows, max_positions=rows, kv_type=int(WeightType.F32), kv_blocks=(),
    )  # fmt: skip


def _seconds(parts: Sequence[Sequence[PackedMatrix]], rows: int, threads: int) -> float:
    """Measure how long a pass takes that multiplies some rows by matrices.

    Args:
        parts: the matrices of passes that follow each other, again and again.
        rows: of the batch.
        threads: that compute.
    """
    executors = [_executor(matrices, rows, threads) for matrices in parts]
    ids, spans = np.zeros(rows, np.int32), [(rows, 0, (), False, 0, 0)]
    for executor in executors:  # warm up
        executor.run(ids, spans, ())
    return min(_round(executors, (ids, spans, ())) for _ in range(ROUNDS))


def _round(executors: Sequence[Executor], work: tuple[Any, ...]) -> float:
    """Measure how long a pass takes, once."""
    times: list[float] = []
    _repeat(executors, work, times, SHORT)
    if pauses(times):
        _repeat(executors, work, times, LONG)
    return sustained(times)


def _repeat(
    executors: Sequence[Executor], work: tuple[Any, ...], times: list[float], seconds: float
) -> None:
    """Add the times of passes, until they are so many seconds and enough for pauses to show."""
    total = sum(times)
    while total <= seconds or (len(times) <= PAUSES and total <= LONG):
        begin = time.perf_counter()
        executors[len(times) % len(executors)].run(*work)
        times.append(time.perf_counter() - begin)
        total += times[-1]


def _room() -> int:
    """Bytes of matrices that do not fit into the caches."""
    room = min(MOST_BYTES, max(LEAST_BYTES, CACHES * _last_cache()))
    return min(room, max(LEAST_BYTES // 4, _available() // 8))


def _last_cache() -> int:
    """Bytes of the largest cache that a core has, as Linux says; 0 if it does not."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((_kilobytes(path) for path in sizes), default=0)


def _kilobytes(path: Path) -> int:
    """Bytes in a file such as 32768K; 0 if it says something else."""
    try:
        return 1024 * int(path.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        return 0


def _available() -> int:
    """Bytes of memory that are free, as Linux says; many if it does not."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, ValueError, StopIteration):
        return 8 * MOST_BYTES
