"""Time and memory from start to the first token, in a separate process.

python benchmarks/load.py tiny.m
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

CODE = """
import sys, time
begin = time.perf_counter()
import dllama
imported = time.perf_counter()
llm = dllama.LLM(sys.argv[1], threads=int(sys.argv[2]) or None, max_seq_len=1024)
loaded = time.perf_counter()
next(llm.generate([1, 2, 3], 1, temperature=0.0))
first = time.perf_counter()
list(llm.generate([5] * 400, 8, temperature=0.0))
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(imported - begin, loaded - imported, first - loaded, peak * 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help=".m file")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    command = [sys.executable, "-c", CODE, str(args.model), str(args.threads)]
    rounds = []
    for _ in range(args.rounds):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rounds.append([float(word) for word in done.stdout.split()])
    imported, loaded, first, peak = map(statistics.median, zip(*rounds, strict=True))
    size = args.model.stat().st_size
    print(f"import {imported:.2f} s, load {loaded:.2f} s ({size / loaded / 1e9:.2f} GB/s), "
          f"first token {first:.2f} s")  # fmt: skip
    print(f"peak memory {peak / 1e6:.0f} MB, {peak / size:.2f} of the file ({size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
