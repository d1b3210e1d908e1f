"""Time this checkout of dllama and another one alternately with the same model.

    git worktree add /tmp/before COMMIT
    python3 -m venv /tmp/before/venv && /tmp/before/venv/bin/pip install /tmp/before
    python benchmarks/versus_checkout.py tiny.m --other /tmp/before/venv/bin/python

--other is the Python of an environment with the other checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from turns import Contestant, add_options, answer, compare, load_dllama, words


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help=".m file")
    parser.add_argument("--other", metavar="PYTHON", required=True)
    add_options(parser, [1])
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--contestant", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        answer(load_dllama(args))
        return
    results = [contest(args, threads) for threads in args.threads]
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


def contest(args: argparse.Namespace, threads: int) -> dict[str, object]:
    """Run all rounds with one number of threads."""
    rest = [
        __file__, args.model, "--contestant", "--other", args.other, *words(args, threads),
    ]  # fmt: skip
    here = Contestant("this", [sys.executable, *rest])
    there = Contestant("other", [args.other, *rest])
    result = compare(here, there, args.rounds, threads)
    for contestant in (here, there):
        contestant.stop()
    return {"threads": threads, **result}


if __name__ == "__main__":
    main()
