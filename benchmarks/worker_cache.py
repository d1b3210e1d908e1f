"""Time the start of two nodes over a slow link: weights are sent, read from disk, or kept.

    sudo python benchmarks/worker_cache.py MODEL

Both nodes are network namespaces of this machine. A start is the time of dllama.LLM(), in which the
root reads its own shard too. "cold" drops what the system has in memory of the worker's files.
Needs root, and the programs ip and tc (iproute2).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.networks import Cable, Node, exit_on_signals, missing, network

PORT = 9999
LIMIT = 600.0  # seconds
ROOT = """
import sys, time, dllama
begin = time.monotonic()
with dllama.LLM(sys.argv[1], workers=[sys.argv[2]], threads=1):
    print(time.monotonic() - begin)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--rate", type=float, default=1000.0, metavar="MBIT")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    exit_on_signals()
    if reason := missing():
        sys.exit(f"worker_cache.py: {reason}")
    times: dict[str, list[float]] = {}
    with network(2, Cable(rate=args.rate)) as nodes:
        for _ in range(args.repeats):
            for case, seconds in starts(nodes, args.model.resolve()):
                times.setdefault(case, []).append(seconds)
    for case, found in times.items():
        print(
            f"{case:40} {statistics.median(found):6.2f} s  ({min(found):.2f} to {max(found):.2f})"
        )


def starts(nodes: list[Node], model: Path) -> Iterator[tuple[str, float]]:
    """Time one start of each case."""
    with tempfile.TemporaryDirectory(prefix="dllama-cache-", dir=Path.home()) as name:
        folder, environment = Path(name), {**os.environ, "XDG_CACHE_HOME": f"{name}/notes"}
        options = ("--cache", str(folder / "shards"))
        with worker(nodes[1]):
            yield "sent", start(nodes, model, environment)
            yield "kept in memory", start(nodes, model, environment)
        with worker(nodes[1], *options):
            yield "sent, and written to disk", start(nodes, model, environment)
            while not list(folder.glob("shards/*.shard")):
                time.sleep(0.1)
        with worker(nodes[1], *options):
            yield "new worker, from disk", start(nodes, model, environment)
        with worker(nodes[1], *options):
            for path in folder.glob("shards/*.shard"):
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            yield "new worker, from disk, cold", start(nodes, model, environment)


@contextlib.contextmanager
def worker(node: Node, *options: str) -> Iterator[None]:
    """Run a worker in a node, once it listens."""
    address = f"{node.address()}:{PORT}"
    command = [sys.executable, "-m", "dllama", "worker", "--listen", address, "--insecure"]
    with node.popen(
        [*command, "--threads", "1", "--quiet", *options], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.terminate()
            process.wait(LIMIT)


def start(nodes: list[Node], model: Path, environment: dict[str, str]) -> float:
    """Return the seconds that a root takes to start."""
    address = f"{nodes[1].address()}:{PORT}"
    done = nodes[0].run([sys.executable, "-c", ROOT, model, address], LIMIT, env=environment)
    if done.returncode:
        sys.exit(f"worker_cache.py: {done.stderr}")
    return float(done.stdout)


if __name__ == "__main__":
    main()
