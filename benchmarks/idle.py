"""CPU time of a loaded model that has nothing to do.

    python benchmarks/idle.py tiny.m

Threads spin while they wait for each other and for the next token, and sleep when none comes. So a
token is followed by a short time of spinning, and then by nothing.
"""

from __future__ import annotations

import argparse
import time

from turns import prompt

import dllama


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m file")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    with dllama.LLM(args.model, threads=args.threads, max_seq_len=256) as llm:
        list(llm.generate(prompt(16), 8, temperature=0.0, ignore_eos=True))
        for seconds in (1.0, args.seconds):
            print(f"{cpu_time(seconds) * 1000:.1f} ms of CPU in {seconds:g} s")


def cpu_time(seconds: float) -> float:
    """Return the CPU time of this process in seconds, all threads together, while it is idle."""
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before


if __name__ == "__main__":
    main()
