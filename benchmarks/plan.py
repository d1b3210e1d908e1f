"""Compare what `dllama plan` predicts with what namespaces with limited rates measure.

    sudo python benchmarks/plan.py --model tiny.m --nodes 2 --rate 100 300 1000

Every node gets its own network namespace; a bridge joins them, and both directions of every link
are limited. Nodes have one thread each, on one processor; if there are more than processors, they
share these, and sleep where they wait. What a prediction needs is measured as for machines that are
there: the speed of every node, all at the same time, and rate and latency of links while all nodes
use theirs. The latency is the mean of what is found before and after the run, since it changes from
minute to minute. The constants of dllama/planning stay. Shares are those that the prediction takes.

Needs root, and the programs ip and tc (iproute2).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

from networks import Cable, Node, exit_on_signals, missing, network

import dllama
from dllama import transports
from dllama._kernels.comm.link import Link
from dllama.cluster.speed.auto_shares import weight_types
from dllama.errors import TransportError
from dllama.model.weight_types import WeightType
from dllama.model_path import open_model
from dllama.planning.description import Machine
from dllama.planning.here import LONG, SHORT, TIMEOUT, exchange
from dllama.planning.plan import Planner, Prediction, Texts
from dllama.planning.timing import LinkSpeed
from dllama.runtime.speed import NodeSpeed, measure

PORT, PROBE = 9999, 9998
# Bytes that tbf lets pass at once, before it limits the rate: few, so that messages of a token are
# limited too, but what the rate allows in 128 microseconds, since timers are late.
LEAST_BURST, BURST_SECONDS = 4096, 128e-6
RUN = 120.0  # seconds
THIS = [sys.executable, str(Path(__file__).resolve())]


@dataclass(frozen=True)
class Bucket(LinkSpeed):
    """A link that tbf limits: unlike a cable, it delays only what exceeds the burst.

    It refills while nodes compute. See `limited` for passes that are too short for that.
    """

    burst: int = 0  # bytes

    def seconds(self, nbytes: int, peers: int) -> float:
        return super().seconds(max(0, nbytes - self.burst), peers)


def limited(predicted: Prediction, link: LinkSpeed) -> float:
    """Seconds of a token: no less than all of its bytes take at the rate of the link."""
    moved = max((*predicted.token.sent, *predicted.token.received))
    return max(predicted.token.seconds.total, moved / link.rate)


def main() -> None:
    args = parse_arguments()
    if args.role:
        print(json.dumps(ROLES[args.role](args)))
        return
    exit_on_signals()
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
    add("--shares", help="of the nodes, with commas between (default: what suits their speeds)")
    add("--prompt-tokens", type=int, default=256)
    add("--steps", type=int, default=48)
    add("--repeats", type=int, default=3)
    add("--json", metavar="FILE", help="add the rows to FILE, one JSON object a line")
    add("--role", choices=ROLES, help=argparse.SUPPRESS)
    add("--transport", help=argparse.SUPPRESS)
    add("--address", help=argparse.SUPPRESS)
    add("--workers", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(args: argparse.Namespace, rate: float) -> None:
    """Predict and measure one cluster, and print a row."""
    processors = sorted(os.sched_getaffinity(0))
    places = [processors[rank % len(processors)] for rank in range(args.nodes)]
    free = max(LEAST_BURST, int(rate * 1e6 / 8 * BURST_SECONDS))
    cable = Cable(rate=rate, delay=args.delay, burst=free)
    args.transport = "nonblocking" if args.nodes <= len(processors) else "blocking"
    with network(args.nodes, cable) as nodes:
        speeds = measured_speeds(args, nodes, places)
        before = measured_link(args, nodes, places, speeds, free)
        predicted = predict(args, speeds, before)
        words = ",".join(f"{share:.4f}" for share in predicted.shares)
        found = run_cluster(args, words, nodes, places)
        after = measured_link(args, nodes, places, speeds, free)
    mean = replace(before, latency=(before.latency + after.latency) / 2)
    predicted = predict(args, speeds, mean)
    guesses = [1 / limited(predicted, mean), predicted.prompt_tokens_per_s]
    row = {
        "model": Path(args.model or "demo").stem, "nodes": args.nodes, "rate": rate,
        "shares": words, "predicted": guesses, "measured": found,
        "links": [vars(before), vars(after)], "speeds": [one.as_json() for one in speeds],
        "ms": vars(predicted.token.seconds), "prompt_ms": vars(predicted.prompt),
    }  # fmt: skip
    cells = [
        f"{guess:.2f}  {true:.2f}  {guess / true:.2f}"
        for guess, true in zip(guesses, found, strict=True)
    ]
    print(
        row["model"], args.nodes, f"{rate:g}", *cells,
        f"({mean.latency * 1e6:.0f} us, {mean.rate * 8e-6:.0f} Mbit/s)", flush=True,
    )  # fmt: skip
    if args.json:
        with Path(args.json).open("a") as file:
            file.write(json.dumps(row) + "\n")


def measured_link(
    args: argparse.Namespace, nodes: list[Node], places: list[int], speeds: list[NodeSpeed],
    free: int,
) -> LinkSpeed:  # fmt: skip
    """Measure an exchange between all nodes, of short messages and of long ones.

    So many bytes of each node are free, as they pass before the rate is limited.
    """
    peers = len(nodes) - 1
    if not peers:
        return LinkSpeed(1.0, 0.0)
    addresses = [f"{node.address()}:{PROBE}" for node in nodes]
    words = [*THIS, "--role", "link", "--transport", args.transport, "--workers", *addresses]
    started = [
        node.popen([*words, "--address", str(rank)], stdout=-1, **on(place))
        for rank, (node, place) in enumerate(zip(nodes, places, strict=True))
    ]
    found = [json.loads(one.communicate(timeout=RUN)[0]) for one in started]
    short, long = (max(one[name] for one in found) for name in ("short", "long"))
    worked = peers * max(one.message for one in speeds)
    rate = (peers * 4 * LONG - free) / (long - short)
    return Bucket(rate, max(0.0, short - worked), 0, free)


def link(args: argparse.Namespace) -> dict[str, float]:
    """Connect to nodes of lower rank, and let the others connect."""
    rank, transport = int(args.address), transports.get(args.transport)
    links: list[Link | None] = [None] * len(args.workers)
    with transport.listen(args.workers[rank]) as listener:
        for other, address in enumerate(args.workers[:rank]):
            links[other] = one = patient(partial(transport.connect, address, TIMEOUT))
            one.send(bytes([rank]))
        for _ in args.workers[rank + 1 :]:
            one, name = listener.accept(RUN), bytearray(1)
            one.recv_into(name)
            links[name[0]] = one
    return {"short": exchange(links, rank, SHORT), "long": exchange(links, rank, LONG)}


def patient(connect: Callable[[], Link]) -> Link:
    """Connect to a listener that may not be there yet."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return connect()
        except TransportError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def measured_speeds(
    args: argparse.Namespace, nodes: list[Node], places: list[int]
) -> list[NodeSpeed]:
    """Measure all nodes at the same time, as they work at the same time."""
    with open_model(args.model) as model:
        kinds = ",".join(kind.name for kind in weight_types(model))
    command = [*THIS, "--role", "speed", "--address", kinds]
    started = [
        node.popen(command, stdin=-1, stdout=-1, **on(place))
        for node, place in zip(nodes, places, strict=True)
    ]
    for one in started:
        one.stdout.readline()
    for one in started:
        one.stdin.write("begin\n")
        one.stdin.flush()
    lines = [one.stdout.readline() for one in started]
    for one in started:
        one.kill()
    return [NodeSpeed.from_json(json.loads(line)) for line in lines]


def speed(args: argparse.Namespace) -> None:
    """Measure when told so, and keep the processor busy for those who still measure."""
    kinds = [WeightType[name] for name in args.address.split(",")]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(measure(kinds, 1).as_json()), flush=True)
    while True:
        measure(kinds, 1)


def predict(args: argparse.Namespace, speeds: list[NodeSpeed], link: LinkSpeed) -> Prediction:
    with open_model(args.model) as model:
        machines = [Machine(f"node {rank}", one, link) for rank, one in enumerate(speeds)]
        shares = [float(share) for share in args.shares.split(",")] if args.shares else None
        planner = Planner(model, Texts(args.prompt_tokens, args.steps), {})
        return planner.predict(machines, shares)


def run_cluster(
    args: argparse.Namespace, shares: str, nodes: list[Node], places: list[int]
) -> list[float]:
    """Run the cluster; median tokens per second and prompt tokens per second."""
    workers = []
    for node, place in zip(nodes[1:], places[1:], strict=True):
        command = [sys.executable, "-m", "dllama", "worker", "--insecure", "--quiet"]
        command += ["--threads", "1", "--listen", f"{node.address()}:{PORT}"]
        workers.append(node.popen(command, stdout=-1, **on(place)))
    for worker in workers:
        worker.stdout.readline()
    words = ["--prompt-tokens", args.prompt_tokens, "--steps", args.steps]
    words += ["--repeats", args.repeats, "--workers", *(f"{n.address()}:{PORT}" for n in nodes[1:])]
    words += ["--model", args.model] if args.model else []
    words += ["--shares", shares, "--transport", args.transport]
    done = nodes[0].run([*THIS, "--role", "root", *words], RUN, **on(places[0]))
    if done.returncode:
        sys.exit(f"plan.py: the root failed: {done.stderr[-300:]}")
    return json.loads(done.stdout)


def root(args: argparse.Namespace) -> list[float]:
    """Generate several times, after a warm-up."""
    workers = {"workers": args.workers, "transport": args.transport} if args.workers else {}
    shares = [float(share) for share in args.shares.split(",")] if args.workers else None
    with dllama.LLM(args.model, threads=1, timeout=60.0, shares=shares, **workers) as llm:
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


ROLES = {"link": link, "speed": speed, "root": root}

if __name__ == "__main__":
    main()
