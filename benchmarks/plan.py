"""Compare what `dllama plan` predicts with what namespaces with limited rates measure.

    sudo python benchmarks/plan.py --model tiny.m --nodes 2 --rate 100 300 1000

Every node gets its own network namespace; a bridge joins them, and both directions of every link
are limited. Nodes have one thread each. If there are more than processors, they share these: a
node's speed is then that of a processor, divided by the nodes on it. All speeds and the latency of
a link are measured first; the constants of dllama/planning stay. Predictions and measurements take
turns.

Needs root, and the programs ip and tc (iproute2).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

from networks import Cable, Node, missing, network

import dllama
from dllama import transports
from dllama.errors import TransportError
from dllama.model_path import open_model
from dllama.planning.description import Machine
from dllama.planning.here import TIMEOUT, exchange
from dllama.planning.plan import Planner, Texts
from dllama.planning.timing import LinkSpeed
from dllama.run_config import RunConfig
from dllama.runtime.node import graph_of
from dllama.runtime.speed import KernelSpeed, NodeSpeed, measure

PORT, PROBE = 9999, 9998
TRANSPORT = "blocking"  # nodes that share a processor must not poll
PACKET = 66  # bytes that tbf counts of a packet besides: Ethernet, IP and TCP without a preamble
# Bytes that tbf lets pass at once, before it limits the rate: few, so that messages of a token are
# limited too, but what the rate allows in 32 microseconds, since timers are late.
LEAST_BURST, BURST_SECONDS = 2048, 32e-6
RUN = 120.0  # seconds
THIS = [sys.executable, __file__]


class Bucket(LinkSpeed):
    """A link that tbf limits: unlike a cable, it delays only what exceeds the burst."""

    def seconds(self, nbytes: int, peers: int) -> float:
        return max(0.0, super().seconds(nbytes, peers) - burst(self.rate) / self.rate)


def burst(rate: float) -> int:
    """Bytes that pass at once, for a rate in bytes per second."""
    return max(LEAST_BURST, int(rate * BURST_SECONDS))


def main() -> None:
    args = parse_arguments()
    if args.role:
        print(json.dumps(ROLES[args.role](args)))
        return
    if reason := missing(delay=args.delay > 0):
        sys.exit(f"plan.py: {reason}")
    print("model  nodes  Mbit/s  tokens/s: predicted  measured  ratio  "
          "prompt tokens/s: predicted  measured  ratio")  # fmt: skip
    for rate in args.rate:
        compare(args, rate)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help="model folder, .m or GGUF file (default: the demo model)")
    add("--nodes", type=int, default=2)
    add("--rate", type=float, nargs="+", default=[1000.0], metavar="MBIT", help="of every link")
    add("--delay", type=float, default=0.0, metavar="MS", help="one way (needs netem)")
    add("--shares", help="of the nodes, with commas between")
    add("--prompt-tokens", type=int, default=256)
    add("--steps", type=int, default=48)
    add("--repeats", type=int, default=3)
    add("--json", metavar="FILE", help="add the rows to FILE, one JSON object a line")
    add("--role", choices=ROLES, help=argparse.SUPPRESS)
    add("--address", help=argparse.SUPPRESS)
    add("--workers", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(args: argparse.Namespace, rate: float) -> None:
    """Predict and measure one cluster, and print a row."""
    processors = sorted(os.sched_getaffinity(0))
    places = [processors[rank % len(processors)] for rank in range(args.nodes)]
    cable = Cable(rate=rate, delay=args.delay, burst=burst(rate * 1e6 / 8))
    with network(args.nodes, cable) as nodes:
        link = measured_link(nodes, places, rate)
        predicted = predict(args, places, link)
        found = run_cluster(args, nodes, places)
    row = {
        "model": Path(args.model or "demo").stem, "nodes": args.nodes, "rate": rate,
        "shares": args.shares, "latency_us": 1e6 * link.latency,
        "predicted": [predicted.tokens_per_s, predicted.prompt_tokens_per_s], "measured": found,
    }  # fmt: skip
    cells = [
        f"{guess:.2f}  {true:.2f}  {guess / true:.2f}"
        for guess, true in zip(row["predicted"], found, strict=True)
    ]
    print(
        row["model"], args.nodes, f"{rate:g}", *cells, f"({link.latency * 1e6:.0f} us)", flush=True
    )
    if args.json:
        with Path(args.json).open("a") as file:
            file.write(json.dumps(row) + "\n")


def measured_link(nodes: list[Node], places: list[int], rate: float) -> LinkSpeed:
    """Measure the latency of a short message between two nodes."""
    where = ["--address", f"{nodes[1].address()}:{PROBE}"]
    listener = nodes[1].popen([*THIS, "--role", "listen", *where], stdout=-3, **on(places[1]))
    try:
        done = nodes[0].run([*THIS, "--role", "connect", *where], RUN, **on(places[0]))
        listener.wait(RUN)
    finally:
        listener.kill()
    if done.returncode:
        sys.exit(f"plan.py: the link could not be measured: {done.stderr[-300:]}")
    return Bucket(rate * 1e6 / 8, json.loads(done.stdout)["latency"], PACKET)


def listen(args: argparse.Namespace) -> dict[str, float]:
    with transports.get(TRANSPORT).listen(args.address) as listener:
        link = listener.accept(RUN)
    assert link is not None
    exchange(link, 1)
    return {}


def connect(args: argparse.Namespace) -> dict[str, float]:
    """Connect to the listener, which may not be there yet."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            link = transports.get(TRANSPORT).connect(args.address, TIMEOUT)
            return {"latency": exchange(link, 0)}
        except TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def predict(args: argparse.Namespace, places: list[int], link: LinkSpeed) -> Any:
    """Measure this machine's processors, all at once, and predict."""
    with open_model(args.model) as model:
        graph = graph_of(model.spec, RunConfig.of(model.spec, 1), 0)
        types = sorted({matrix.weight_type for matrix in graph.matrices})
        used = len(set(places))
        whole = measure(types, used)
        crowds = [places.count(place) for place in places]
        machines = [
            Machine(f"node {rank}", part(whole, used * crowd), link)
            for rank, crowd in enumerate(crowds)
        ]
        shares = [float(share) for share in args.shares.split(",")] if args.shares else None
        planner = Planner(model, Texts(args.prompt_tokens, args.steps), {})
        return planner.predict(machines, shares or [1.0] * args.nodes)


def part(whole: NodeSpeed, divisor: int) -> NodeSpeed:
    """One of several nodes that share what was measured."""
    kernels = {
        kind: KernelSpeed(one.bandwidth / divisor, one.compute / divisor)
        for kind, one in whole.kernels.items()
    }
    return NodeSpeed(1, measure((), 1).stage, kernels)


def run_cluster(args: argparse.Namespace, nodes: list[Node], places: list[int]) -> list[float]:
    """Run the cluster; median tokens per second and prompt tokens per second."""
    workers = []
    for node, place in zip(nodes[1:], places[1:], strict=True):
        command = [sys.executable, "-m", "dllama", "worker", "--insecure", "--quiet", *PLAIN]
        command += ["--threads", "1", "--listen", f"{node.address()}:{PORT}"]
        workers.append(node.popen(command, stdout=-1, **on(place)))
    for worker in workers:
        worker.stdout.readline()
    words = ["--prompt-tokens", args.prompt_tokens, "--steps", args.steps]
    words += ["--repeats", args.repeats, "--workers", *(f"{n.address()}:{PORT}" for n in nodes[1:])]
    words += ["--model", args.model] if args.model else []
    words += ["--shares", args.shares] if args.shares else []
    done = nodes[0].run([*THIS, "--role", "root", *words], RUN, **on(places[0]))
    if done.returncode:
        sys.exit(f"plan.py: the root failed: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def root(args: argparse.Namespace) -> list[float]:
    """Generate several times, after a warm-up."""
    shares = [float(share) for share in args.shares.split(",")] if args.shares else None
    with dllama.LLM(
        args.model, workers=args.workers, transport=TRANSPORT, threads=1, timeout=60.0,
        shares=shares or [1.0] * (len(args.workers) + 1), **({"plain": True} if PLAIN else {}),
    ) as llm:  # fmt: skip
        ids = [1 + n % (llm.spec.vocab_size - 1) for n in range(args.prompt_tokens)]
        found = []
        for repeat in range(args.repeats + 1):
            llm.reset()
            for _ in llm.generate(
                ids, args.steps if repeat else 4, temperature=0.0, ignore_eos=True
            ):
                pass
            found.append(llm.stats.summary())
        names = ("tokens_per_s", "prompt_tokens_per_s")
        return [statistics.median(one[name] for one in found[1:]) for name in names]


def on(processor: int) -> dict[str, Any]:
    """The options of a process that has one processor."""
    return {"preexec_fn": partial(os.sched_setaffinity, 0, {processor})}


PLAIN: list[str] = []
ROLES = {"listen": listen, "connect": connect, "root": root}

if __name__ == "__main__":
    main()
