"""Compare `--shares auto` with all shares of whole heads, on nodes of different speed.

    sudo python benchmarks/shares.py --model small.m --quotas 0.8 0.4 0.4
    sudo python benchmarks/shares.py --model small.m --quotas 0.8 0.4 0.4 --only 16,8,8 17,8,7

Every node gets its own network namespace, a cgroup with a quota of processor time, and a processor,
which workers share if there are few. For each split of the query heads in which faster nodes hold
at least as many as slower ones, `dllama bench` generates tokens; nodes hold the same part of
everything else. Auto runs first and last. The best of many that vary is best by chance too, so run
again with --only: auto and these shares take turns, and medians count.

Needs root, and the programs ip and tc (iproute2). Nothing outside the namespaces is changed, and
they are removed at the end unless the script itself is killed (SIGKILL).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from support.networks import Cable, NetworkError, Node, exit_on_signals, missing, network

from dllama.model_path import open_model

DLLAMA = [sys.executable, "-m", "dllama"]
PORT = 9999
STARTING = 60.0  # seconds that workers may take to start
RUNNING = 120.0  # seconds that a run may take


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="model folder or .m file")
    add("--quotas", type=float, nargs="+", default=[0.8, 0.4, 0.4], help="processors of each node")
    add("--rate", type=float, help="Mbit/s of every link (default: no limit)")
    add("--least", type=float, default=0.6, help="shares below this part of a node's quota, and "
        "above its inverse, are not tried")  # fmt: skip
    add("--only", nargs="+", metavar="HEADS", help="shares to try besides auto, in turns")
    add("--turns", type=int, default=3, help="with --only")
    add("--steps", type=int, default=48)
    add("--repeats", type=int, default=3, help="of which the median counts")
    args = parser.parse_args()
    exit_on_signals()
    if (lacking := missing(quotas=True)) is not None:
        sys.exit(f"shares.py: {lacking}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            compare(args, Path(folder))
        except NetworkError as error:
            sys.exit(f"shares.py: {error}")


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Run all shares and print a table."""
    with open_model(args.model) as model:
        heads = model.spec.n_heads
    cable = Cable(rate=args.rate)
    with network(len(args.quotas), cable, quotas=args.quotas) as nodes:
        workers = [start(node, folder) for node in nodes[1:]]
        results: dict[str, list[float]] = {}
        for shares in order(heads, args):
            rate, said = run(nodes, shares, args, folder)
            results.setdefault(shares, []).append(rate)
            print(f"{shares:12} {rate:7.2f} tokens/s  {said}".rstrip(), flush=True)
        for worker in workers:
            worker.terminate()
    rates = {shares: statistics.median(found) for shares, found in results.items()}
    auto = rates.pop("auto")
    best = max(rates, key=lambda shares: rates[shares])
    print(
        f"auto {auto:.2f} tokens/s, the best ({best}) {rates[best]:.2f}: {auto / rates[best]:.3f}"
    )


def order(heads: int, args: argparse.Namespace) -> list[str]:
    """The shares of all runs."""
    if args.only:
        return ["auto", *args.only] * args.turns
    return ["auto", *(",".join(map(str, one)) for one in splits(heads, args)), "auto"]


def splits(heads: int, args: argparse.Namespace) -> Iterator[tuple[int, ...]]:
    """The splits of all heads in which no node holds far more or less than its quota says."""
    fair = [heads * quota / sum(args.quotas) for quota in args.quotas]
    some = [
        [count for count in range(1, heads) if args.least * one <= count <= one / args.least]
        for one in fair
    ]
    for split in itertools.product(*some):
        if sum(split) == heads and ordered(split, args.quotas):
            yield split


def ordered(split: Sequence[int], quotas: Sequence[float]) -> bool:
    """Whether nodes with more heads have no smaller quota; of equal ones the first has more."""
    order = sorted(range(len(split)), key=lambda rank: (-quotas[rank], rank))
    return all(split[a] >= split[b] for a, b in itertools.pairwise(order))


def start(node: Node, folder: Path) -> subprocess.Popen[str]:
    """Start a worker, and wait until it listens."""
    words = [*DLLAMA, "worker", "--listen", f"{node.address()}:{PORT}", "--insecure",
             "--threads", "1", "--name", f"node-{node.rank}", "--quiet"]  # fmt: skip
    process = node.popen(words, stdout=subprocess.PIPE, **options(node, folder))
    assert process.stdout is not None
    begin = time.monotonic()
    if not process.stdout.readline() or time.monotonic() > begin + STARTING:
        sys.exit(f"shares.py: the worker of node {node.rank} did not start")
    return process


def options(node: Node, folder: Path) -> dict[str, Any]:
    """How the processes of a node start: on a processor, with a place for its measured speed.

    The root has the first processor. A quota is lost in part where a thread changes processors.
    """
    cpus = sorted(os.sched_getaffinity(0))
    cpu = cpus[0 if node.rank == 0 else 1 + (node.rank - 1) % (len(cpus) - 1)]
    return {
        "env": {**os.environ, "XDG_CACHE_HOME": str(folder / str(node.rank))},
        "preexec_fn": lambda: os.sched_setaffinity(0, [cpu]),
    }


def run(
    nodes: Sequence[Node], shares: str, args: argparse.Namespace, folder: Path
) -> tuple[float, str]:
    """Return the tokens per second of a run, and what it said about its shares."""
    workers = [f"{node.address()}:{PORT}" for node in nodes[1:]]
    result = folder / "result.json"
    words = [*DLLAMA, "bench", args.model, "--workers", *workers, "--nodes", str(len(nodes)),
             "--transport", "blocking", "--threads", "1", "--shares", shares,
             "--prompt-tokens", "8", "--steps", str(args.steps), "--repeats", str(args.repeats),
             "--timeout", "30", "--json", str(result)]  # fmt: skip
    done = nodes[0].run(words, RUNNING, **options(nodes[0], folder))
    if done.returncode:
        sys.exit(f"shares.py: {' '.join(words)}: {done.stderr.strip()}")
    said = [
        line.partition("warning: ")[2]
        for line in done.stderr.splitlines()
        if "measured speed" in line
    ]
    return json.loads(result.read_text())["cases"][0]["tokens_per_s"], " ".join(said[:1])


if __name__ == "__main__":
    main()
