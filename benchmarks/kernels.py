"""Time the matmul kernels: GB/s of weights, G multiply-adds/s, fractions of the machine's limits.

    python benchmarks/kernels.py --threads 1 4

The limits are measured first: the rate at which the same number of threads read memory, and the
rate at which a core multiplies and adds 8-bit integers in registers. The matrices have the shape of
TinyLlama's feed-forward network and do not fit in the caches. DLLAMA_ISA=avx2 or baseline times a
lower instruction set.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from turns import integer_rate, read_bandwidth

from dllama._kernels import cpu
from dllama._kernels import weight_types as quants
from dllama._kernels.ops.matmul import matmul
from dllama._kernels.packed import PackedMatrix
from dllama.model.weight_types import WeightType

ROWS, COLUMNS, COPIES = 11264, 2048, 16
TYPES = {kind.name.lower(): int(kind) for kind in WeightType}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, cpu.default_threads()])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 256])
    parser.add_argument("--weights", nargs="+", choices=TYPES, default=["q40", "q80"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{cpu.isa()}, {ROWS} x {COLUMNS}")
    memory = {threads: read_bandwidth(threads) for threads in args.threads}
    integer = integer_rate()
    for weights in args.weights:
        matrices = [packed(TYPES[weights]) for _ in range(COPIES)]
        for threads in args.threads:
            for tokens in args.tokens:
                seconds = timed(matrices, tokens, threads, args.rounds)
                rate = tokens * ROWS * COLUMNS * COPIES / seconds / 1e9
                read = sum(matrix.nbytes for matrix in matrices) / seconds / 1e9
                print(
                    f"{weights}  {threads} threads  {tokens:4d} tokens  "
                    f"{rate:7.1f} G multiply-adds/s ({rate / integer / threads:4.0%})  "
                    f"{read:6.1f} GB/s ({read / memory[threads]:4.0%})"
                )


def packed(weight_type: int) -> PackedMatrix:
    """A matrix of random numbers."""
    rng, kind = np.random.default_rng(0), WeightType(weight_type)
    raw = rng.integers(0, 256, kind.nbytes(ROWS * COLUMNS), np.uint8)
    if kind.encoded:
        quants.encode(rng.standard_normal((ROWS, COLUMNS), np.float32), raw, weight_type, 4)
    matrix = PackedMatrix(ROWS, COLUMNS, weight_type)
    matrix.fill(0, raw.reshape(ROWS, -1), threads=4)
    return matrix


def timed(matrices: list[PackedMatrix], tokens: int, threads: int, rounds: int) -> float:
    """Median seconds of one pass over all matrices."""
    x = np.random.default_rng(1).standard_normal((tokens, COLUMNS), np.float32)
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for matrix in matrices:
            matmul(matrix, x, threads=threads)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
