"""Time per token at the beginning of a context and at much later positions, by type of KV cache.

    python benchmarks/make_random_model.py llama-3.2-1b --m long.m
    python benchmarks/long_context.py long.m --kv-cache f16 q80

A token reads all weights, and the KV cache of all positions before it. The rate counts both. The
types take turns at each position; the last column is the median of the ratios to the first type.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack

from turns import prompt, read_bandwidth, weight_bytes

import dllama
from dllama.options import KV_CACHE


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m file")
    parser.add_argument("--positions", type=int, nargs="+", default=[100, 1000, 4000])
    parser.add_argument("--kv-cache", nargs="+", choices=KV_CACHE.choices, default=["auto"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24, help="tokens timed at each position")
    args = parser.parse_args()
    positions, kinds = sorted(args.positions), list(dict.fromkeys(args.kv_cache))
    options = {"threads": args.threads, "max_seq_len": positions[-1] + args.tokens}
    with ExitStack() as opened:
        models = {
            kind: opened.enter_context(dllama.LLM(args.model, kv_cache=kind, **options))
            for kind in kinds
        }
        times: dict[int, dict[str, list[float]]] = {
            position: {kind: [] for kind in kinds} for position in positions
        }
        for _ in range(args.rounds):
            for llm in models.values():
                llm.reset()
            for position in positions:
                for kind, llm in models.items():
                    times[position][kind].append(timed(llm, position, args.tokens))
        report(models, times, weight_bytes(args.model))


def timed(llm: dllama.LLM, position: int, tokens: int) -> float:
    """Return the median ms of tokens from `position` on, after filling the context up to it."""
    missing = prompt(position - llm.position)
    list(llm.generate(missing, tokens, temperature=0.0, ignore_eos=True))
    return statistics.median(step.total_ms for step in llm.stats.steps[-tokens + 1 :])


def report(
    models: dict[str, dllama.LLM], times: dict[int, dict[str, list[float]]], weights: int
) -> None:
    """Print a row for each position and type."""
    first, begin = next(iter(models)), next(iter(times))
    threads = models[first].threads
    print(f"{read_bandwidth(threads):.1f} GB/s is what {threads} threads read")
    for position, kinds in times.items():
        for kind, medians in kinds.items():
            ms = statistics.median(medians)
            cache = models[kind].memory()["kv_cache"] / models[kind].seq_len * position
            since = ms / statistics.median(times[begin][kind])
            pairs = zip(medians, kinds[first], strict=True)
            ratio = statistics.median(own / other for own, other in pairs)
            rate = (weights + cache) / ms / 1e6
            print(
                f"position {position:5d}  {kind:4}  {ms:7.2f} ms  {since:.2f}  {rate:5.1f} GB/s  "
                f"{ratio:.3f}"
            )


if __name__ == "__main__":
    main()
