"""Decode while other programs keep some of the cores busy.

    python benchmarks/busy.py tiny.m --busy 1
    python benchmarks/busy.py --busy 1      # the demo model

A busy program is a loop in Python that is pinned to a core. Three ways to run take turns: as many
threads as cores would be left, on a free machine; a thread for each core, on a free machine; and a
thread for each core beside the busy programs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from turns import PROMPT, Contestant, answer, prompt

LOOP = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
while True: pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help=".m file; the demo model if left out")
    parser.add_argument(
        "--busy", type=int, default=1, help="cores with a busy program, from the last"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decode-tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        contestant(args)
    else:
        contest(args)


def contestant(args: argparse.Namespace) -> None:
    """Generate, and answer with the tokens per second."""
    import dllama

    llm = dllama.LLM(args.model, threads=args.threads, max_seq_len=PROMPT + args.decode_tokens)

    def measure(_: str) -> float:
        llm.reset()
        ids = [token % 256 for token in prompt(PROMPT)]
        list(llm.generate(ids, args.decode_tokens, temperature=0.0, ignore_eos=True))
        return llm.stats.summary()["tokens_per_s"]

    answer(measure)


def contest(args: argparse.Namespace) -> None:
    """Run all rounds, and print the medians and their ratios to the first."""
    cores = sorted(os.sched_getaffinity(0))
    busy = cores[len(cores) - args.busy :]
    free = len(cores) - len(busy)
    model = [args.model] if args.model else []
    words = [sys.executable, __file__, *model, "--decode-tokens", str(args.decode_tokens)]
    some = Contestant("some", [*words, "--threads", str(free)])
    every = Contestant("every", [*words, "--threads", str(len(cores))])
    rounds = []
    for number in range(args.rounds + 1):
        rates = [some.ask("decode"), every.ask("decode")]
        with busy_programs(busy):
            rates.append(every.ask("decode"))
        if number:  # the first warms up
            rounds.append(rates)
    names = (f"{free} threads", f"{len(cores)} threads", f"{len(cores)} threads, {len(busy)} busy")
    for name, rates in zip(names, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(b / a[0] for a, b in zip(rounds, rates, strict=True))
        print(f"{name:<24} {statistics.median(rates):8.1f} tokens/s  ratio {ratio:.2f}")
    some.stop()
    every.stop()


@contextlib.contextmanager
def busy_programs(cores: list[int]) -> Iterator[None]:
    """Keep these cores busy."""
    command = [sys.executable, "-c", LOOP]
    loops = [subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE) for core in cores]
    try:
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()  # it is on its core
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()


if __name__ == "__main__":
    main()
