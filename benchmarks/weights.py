"""Time the sending of weights to workers on this machine over loopback TCP.

    python benchmarks/weights.py tiny.m --shares 1,9

The script opens a model on new workers, which have no weights, and again on the same ones, which
then have their shards. The difference is the time of sending, checking and repacking.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dllama

PAUSE = 1.0  # seconds for workers to end a session


@contextlib.contextmanager
def worker() -> Iterator[str]:
    """Yield the address of a worker that runs during the block."""
    command = [sys.executable, "-m", "dllama", "worker", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--threads", "1"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def open_once(model: Path, addresses: list[str], shares: list[float]) -> tuple[float, int]:
    """Return the seconds to open the model, and the bytes of the workers' weights."""
    begin = time.perf_counter()
    with dllama.LLM(model, workers=addresses, shares=shares, threads=1, max_seq_len=256) as llm:
        seconds = time.perf_counter() - begin
        return seconds, sum(llm.memory(rank)["weights"] for rank in range(1, llm.nodes))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help=".m file")
    parser.add_argument("--shares", default="1,1", help="of the root and each worker: 1,1")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    shares = [float(share) for share in args.shares.split(",")]
    rounds = []
    for _ in range(args.rounds):
        with contextlib.ExitStack() as stack:
            addresses = [stack.enter_context(worker()) for _ in shares[1:]]
            first, nbytes = open_once(args.model, addresses, shares)
            time.sleep(PAUSE)
            again, _ = open_once(args.model, addresses, shares)
            rounds.append((first, again))
            print(f"opened in {first:.2f} s, again in {again:.2f} s", flush=True)
    first, again = map(statistics.median, zip(*rounds, strict=True))
    print(f"{nbytes / 1e9:.2f} GB to {len(shares) - 1} workers in {first - again:.2f} s: "
          f"{nbytes / (first - again) / 1e9:.2f} GB/s")  # fmt: skip


if __name__ == "__main__":
    main()
