"""What every node does, root or worker: hold a shard of a model and evaluate it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama import families, sharding
from dllama._kernels.collectives import Group
from dllama._kernels.executor import Executor
from dllama._kernels.link import Link
from dllama.plan import WIRE, Plan
from dllama.program import Program
from dllama.spec import ModelSpec
from dllama.weights import Weights


def program_of(spec: ModelSpec, plan: Plan, rank: int, path: object = "model") -> Program:
    """The program of one node; ConfigError for more nodes than the model can be split over,
    UnsupportedError for a model that no family runs."""
    family = families.of_spec(spec, path)
    shard = sharding.split(spec, plan.shares, plan.exact)[rank]
    program: Program = family.build(spec, shard)
    return program


def group_of(
    program: Program,
    plan: Plan,
    links: list[Link | None],
    rank: int,
    watched: dict[int, Link],
) -> Group:
    """The links of one node to all others as its program's collectives use them.

    program: of any of the nodes, since they agree on what all of them send. watched: a worker's
    control link, whose end tells that the root has gone.
    """
    shard = program.shard
    both = zip(shard.output_sum.adds, shard.down_sum.adds, strict=True)
    return Group(
        links,
        rank,
        sums=[max(map(len, adds)) for adds in both],
        dim=program.spec.dim,
        tokens=plan.batch,
        wire=int(WIRE[plan.buffer]),
        algorithm=plan.all_reduce,
        timeout=plan.patience,
        watched=watched,
    )


class Node:
    """One node's executor and weights, and the logits of the last pass."""

    def __init__(
        self, program: Program, weights: Weights, plan: Plan, threads: int, group: Group | None
    ) -> None:
        self.program = program
        self.shard = program.shard
        self.group = group
        self.max_batch = plan.batch
        self.max_logits = plan.logits
        self._weight_bytes = weights.nbytes
        self._executor = Executor(
            program,
            weights.matrices,
            weights.vectors,
            weights.embedding,
            threads=threads,
            max_batch=plan.batch,
            max_logits=plan.logits,
            seq_len=plan.seq_len,
            half=plan.half,
            contexts=plan.contexts,
            group=group,
        )
        self._context = 0
        self._transfers = self._executor.transfers()
        self.logits: NDArray[np.float32] = np.empty((0, len(self.shard.vocab)), np.float32)

    def use(self, context: int, source: int, positions: int) -> None:
        """Let passes work on a context; errors and all else as Executor.use."""
        if (context, source) != (self._context, self._context):
            self._executor.use(context, source, positions)
            self._context = context

    def run(
        self, ids: NDArray[np.int32], position: int, first_logits: int, form: int = 0
    ) -> NDArray[np.float32]:
        """Evaluate tokens; logits float32 (n - first_logits, rows of this node), a view that
        is valid until the next pass. Errors as Executor.run."""
        self.logits = self._executor.run(ids, position, first_logits, form)
        return self.logits

    def memory(self) -> dict[str, int]:
        """Bytes of weights, kv_cache (all of all contexts) and buffers."""
        return {"weights": self._weight_bytes, **self._executor.memory()}

    def times(self) -> tuple[float, float]:
        """Milliseconds of computing and of transfers in the last pass."""
        steps = self._executor.milliseconds()
        transfer = float(steps[self._transfers].sum())
        return float(steps.sum()) - transfer, transfer

    def timeline(self) -> dict[str, Any]:
        """When the last pass began (nanoseconds of this node's clock) and its steps'
        milliseconds."""
        return {"began": self._executor.began, "ms": self._executor.milliseconds().tolist()}

    def labels(self) -> list[tuple[str, str]]:
        """A name and a kind for each step of a timeline."""
        return [
            (f"{task.op.name.lower()} {task.weight or task.layer}", task.kind.name.lower())
            for task in self._executor.tasks()
        ]
