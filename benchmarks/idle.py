"""CPU time that a loaded model takes while nobody asks it for anything.

    python benchmarks/idle.py tiny.m

Threads wait for each other and for the next token by spinning, and sleep when none comes: after a
token there is a rest to spin out, and then nothing.
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
    """Seconds that all threads of this process compute while it does nothing."""
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before


if __name__ == "__main__":
    main()
