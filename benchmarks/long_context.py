"""Time per token at the beginning of a context and at much later positions.

    python benchmarks/make_random_model.py llama-3.2-1b --m long.m
    python benchmarks/long_context.py long.m

A token reads all weights, and the KV cache of all positions before it. The rate counts both.
"""

from __future__ import annotations

import argparse
import statistics

from turns import prompt, read_bandwidth, weight_bytes

import dllama


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m file")
    parser.add_argument("--positions", type=int, nargs="+", default=[100, 1000, 4000])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24, help="tokens timed at each position")
    args = parser.parse_args()
    positions = sorted(args.positions)
    weights = weight_bytes(args.model)
    with dllama.LLM(
        args.model, threads=args.threads, max_seq_len=positions[-1] + args.tokens
    ) as llm:
        times: dict[int, list[float]] = {position: [] for position in positions}
        for _ in range(args.rounds):
            llm.reset()
            for position in positions:
                times[position] += timed(llm, position, args.tokens)
        spec, first = llm.spec, statistics.median(times[positions[0]])
        row = 2 * 2 * spec.n_layers * spec.n_kv_heads * spec.head_dim  # float16 keys and values
        print(f"{read_bandwidth(llm.threads):.1f} GB/s is what {llm.threads} threads read")
        for position in positions:
            ms = statistics.median(times[position])
            rate = (weights + position * row) / ms / 1e6
            print(f"position {position:5d}  {ms:7.2f} ms  {ms / first:.2f}  {rate:5.1f} GB/s")


def timed(llm: dllama.LLM, position: int, tokens: int) -> list[float]:
    """Return the milliseconds of tokens from `position` on, after filling the context up to it."""
    missing = prompt(position - llm.position)
    list(llm.generate(missing, tokens, temperature=0.0, ignore_eos=True))
    return [step.total_ms for step in llm.stats.steps[-tokens + 1 :]]


if __name__ == "__main__":
    main()
