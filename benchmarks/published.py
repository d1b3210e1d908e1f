"""Check the model of `dllama plan` against published figures of distributed-llama on Raspberry Pis.

    python benchmarks/published.py

Llama 3 8B Q40 on 2 and 4 Raspberry Pi 5 at 1 Gbit/s, from
https://github.com/b4rtaz/distributed-llama/pull/64 ("This PR"). What its kernels read per second,
and the latency of a transfer between its programs, are taken from the row of 2 nodes. With these
the row of 4 nodes is predicted. That program sends other messages than dllama, so they are
described here: in each block the root sends the vector to all workers and each worker returns its
sum, and the root alone computes logits. Their bytes are those that it prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dllama._kernels.tasks import Kind
from dllama.model_path import planned_model
from dllama.planning.messages import Round
from dllama.planning.timing import LinkSpeed, round_seconds
from dllama.planning.work import Shape, split_work
from dllama.run_config import NUMBERS, RunConfig
from dllama.runtime.node import graph_of

CONFIG = Path(__file__).parent / "configs" / "llama-3.1-8b.json"
RATE = 125e6  # bytes per second
TOKENS = 90  # of the text; its middle is what counts
TRANSFERS = 4  # of a layer


class Row(NamedTuple):
    """A published row: ms of computing and of transfers per token, tokens per second, kB sent."""

    nodes: int
    inference: float
    transfer: float
    tokens_per_s: float
    sent: float


TWO, FOUR = Row(2, 269.04, 56.39, 3.07, 272.0), Row(4, 169.33, 75.34, 4.08, 816.0)


def main() -> None:
    with planned_model(str(CONFIG), "q40") as model:
        spec = model.spec
        config = RunConfig.of(spec, 1, kv_cache="f32")
        graph = graph_of(spec, config, 0)
    (work,) = split_work(graph, Shape(1, TOKENS // 2), NUMBERS[config.kv_cache])
    (output,) = (one for one in graph.matrices if one.name == "output")
    logits = output.weight_type.nbytes(output.rows * output.cols)
    layers = sum(work.reads.values()) - logits + work.cache_bytes
    rounds = TRANSFERS * spec.n_layers
    assert all(task.kind is Kind.INFERENCE for task in graph.tasks)

    bandwidth = (layers / TWO.nodes + logits) / (TWO.inference / 1e3)
    row = NUMBERS["q80"].nbytes(spec.dim)
    free = [LinkSpeed(RATE, 0.0)] * TWO.nodes
    latency = TWO.transfer / 1e3 / rounds - round_seconds(star(TWO.nodes, row), free).rate
    print(f"from 2 nodes: {bandwidth / 1e9:.2f} GB/s, {1e6 * latency:.0f} us a transfer")

    inference = 1e3 * (layers / FOUR.nodes + logits) / bandwidth
    links = [LinkSpeed(RATE, latency)] * FOUR.nodes
    transfer = 1e3 * rounds * round_seconds(star(FOUR.nodes, row), links).total
    sent = rounds / 2 * star(FOUR.nodes, row).sent[0] / 1024
    print("4 nodes                predicted  published  ratio")
    for name, guess, true in (
        ("compute, ms", inference, FOUR.inference),
        ("transfer, ms", transfer, FOUR.transfer),
        ("tokens/s", 1e3 / (inference + transfer), FOUR.tokens_per_s),
        ("sent by the root, KiB", sent, FOUR.sent),
    ):
        print(f"{name:<22} {guess:9.2f}  {true:9.2f}  {guess / true:5.2f}")


def star(nodes: int, row: int) -> Round:
    """The root sends a row to each worker; a round in the other direction takes as long."""
    workers = nodes - 1
    return Round((workers * row, *[0] * workers), (0, *[row] * workers), (workers, *[1] * workers))


if __name__ == "__main__":
    main()
