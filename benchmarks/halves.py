"""Time prompts whose halves take turns, and the same without, over slow links on one machine.

    sudo python benchmarks/halves.py --model tiny.m --nodes 2 --rate 250

Every node has a network namespace, and a core of its own if there are enough. Both cases have
workers of their own and take turns. A burst of 128 kB lets whole packets of the sender pass, so
that a limit takes little of the processors. See network_modes.py for what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

from network_modes import await_worker, divide_cores, on, worker
from support.networks import Cable, Node, exit_on_signals, missing, network

import dllama
from dllama import engine

PORTS = {False: 9998, True: 9999}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path)
    add("--nodes", type=int, default=2)
    add("--threads", type=int, default=1, help="of every node")
    add("--rate", type=float, default=1000.0, metavar="MBIT", help="Mbit/s of every link")
    add("--burst", type=int, default=1 << 17, metavar="BYTES", help="sent at once by a link")
    add("--prompt-tokens", type=int, default=256)
    add("--repeats", type=int, default=5)
    add("--root", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.root:
        print(json.dumps(measure(args)))
        return
    exit_on_signals()
    if lack := missing():
        sys.exit(f"halves.py: {lack}")
    report(args, run(args))


def run(args: argparse.Namespace) -> list[list[float]]:
    """Pairs of tokens per second, without turns and with them."""
    cores = divide_cores(args.nodes, args.threads)
    with (
        network(args.nodes, Cable(args.rate, burst=args.burst)) as nodes,
        contextlib.ExitStack() as stack,
    ):
        for node in nodes[1:]:
            for port in PORTS.values():
                process = worker(node, cores[node.rank], args, port, "plain")
                await_worker(stack.enter_context(process), node.rank)
        command = [sys.executable, __file__, *sys.argv[1:], "--root"]
        done = nodes[0].run(command, 600.0, **on(cores[0]))
        if done.returncode:
            sys.exit(f"halves.py: the root failed: {done.stderr[-300:]}")
        pairs: list[list[float]] = json.loads(done.stdout.splitlines()[-1])
        return pairs


def measure(args: argparse.Namespace) -> list[list[float]]:
    """Evaluate prompts on both clusters by turns, after a warm-up; this runs in the root."""
    made = engine.RunConfig.of
    with contextlib.ExitStack() as stack:
        llms = []
        for halves, port in PORTS.items():
            engine.RunConfig.of = partial(_config, made, halves)  # type: ignore[method-assign]
            addresses = [f"{Node('', rank).address()}:{port}" for rank in range(1, args.nodes)]
            options = {"threads": args.threads, "transport": "blocking", "plain": True}
            llm = dllama.LLM(args.model, workers=addresses, timeout=60.0, **options)
            llms.append(stack.enter_context(llm))
        pairs = [[speed(llm, args.prompt_tokens) for llm in llms] for _ in range(args.repeats + 1)]
    return pairs[1:]


def _config(made, turns, /, *words, **options):
    return made(*words, **{**options, "halves": turns})


def speed(llm: dllama.LLM, tokens: int) -> float:
    """Prompt tokens per second."""
    llm.reset()
    prompt = [1 + index % (llm.spec.vocab_size - 1) for index in range(tokens)]
    begin = time.perf_counter()
    next(llm.generate(prompt, 1, temperature=0.0, ignore_eos=True))
    return tokens / (time.perf_counter() - begin)


def report(args: argparse.Namespace, pairs: list[list[float]]) -> None:
    without, turns = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    ratio = statistics.median(turns / without for without, turns in pairs)
    print(f"{args.nodes} nodes, {args.rate:g} Mbit/s: {without:.1f} prompt tokens/s without turns,")
    print(f"{turns:.1f} with them, {ratio:.2f} times as many")


if __name__ == "__main__":
    main()
