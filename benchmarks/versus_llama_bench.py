"""Time dllama and a fork of llama.cpp alternately, the latter with its llama-bench.

    python benchmarks/versus_llama_bench.py tiny.m tiny.gguf --llama-bench PATH --more="-rtr 1"

--more is passed to llama-bench; -rtr 1 makes ik_llama.cpp repack the weights on loading.
llama-bench loads the model for every run, warms up, and times itself.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable

from turns import Contestant, add_options, answer, compare, load_dllama, words


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m file")
    parser.add_argument("gguf", help=".gguf file of the same shape")
    parser.add_argument("--llama-bench", required=True, metavar="PROGRAM")
    add_options(parser, [1, 4])
    parser.add_argument("--contestant", choices=["dllama", "llama-bench"], help=argparse.SUPPRESS)
    parser.add_argument("--more", default="", help="arguments of llama-bench")
    args = parser.parse_args()
    if args.contestant == "dllama":
        answer(load_dllama(args))
    elif args.contestant == "llama-bench":
        answer(llama_bench(args))
    else:
        for threads in args.threads:
            contest(args, threads)


def contest(args: argparse.Namespace, threads: int) -> None:
    """Run all rounds with one number of threads."""
    command = [
        sys.executable, __file__, args.model, args.gguf, "--llama-bench", args.llama_bench,
        *words(args, threads), f"--more={args.more}",
    ]  # fmt: skip
    contestants = [
        Contestant(name, [*command, "--contestant", name]) for name in ("dllama", "llama-bench")
    ]
    compare(contestants[0], contestants[1], args.rounds, threads)
    for contestant in contestants:
        contestant.stop()


def llama_bench(args: argparse.Namespace) -> Callable[[str], float]:
    """Return llama-bench's tokens per second."""
    command = [args.llama_bench, "-m", args.gguf, "-t", str(args.threads[0]), "-r", "1"]

    def measure(what: str) -> float:
        prompt = args.prompt_tokens if what == "prefill" else 0
        decode = args.decode_tokens if what == "decode" else 0
        sizes = ["-p", str(prompt), "-n", str(decode), "-o", "json", *shlex.split(args.more)]
        done = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)
        (result,) = json.loads(done.stdout[done.stdout.index("[") :])
        return float(result["avg_ts"])

    return measure


if __name__ == "__main__":
    main()
