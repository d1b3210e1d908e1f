"""What every node does, root or worker: hold a shard of a model and evaluate it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.comm.link import Link
from dllama._kernels.executor import Executor
from dllama.graph import shard as sharding
from dllama.graph.build import build, check_supported
from dllama.graph.graph import Graph
from dllama.graph.weights import Weights
from dllama.model.spec import ModelSpec
from dllama.run_config import NUMBERS, RunConfig
from dllama.runtime.batch import Batch
from dllama.runtime.block_pool import pools

HALVES = (", first half", ", second half")  # of the rows of a pass
MEMORY = ("weights", "kv_cache", "buffers")  # what takes memory


def graph_of(spec: ModelSpec, config: RunConfig, rank: int, path: object = "model") -> Graph:
    """Return the graph of one node.

    Args:
        spec: of the model.
        config: what all nodes agree on.
        rank: of the node.
        path: of the model, for messages.

    Raises:
        ConfigError: there are more nodes than the model can be split over.
        UnsupportedError: the model is of no family.
    """
    check_supported(spec, path)
    return _built(spec, config.shares, config.exact, rank)


@lru_cache(maxsize=4)
def _built(spec: ModelSpec, shares: tuple[float, ...], exact: bool, rank: int) -> Graph:
    """The same, which is kept: several parts of a start ask for it."""
    return build(spec, sharding.split(spec, shares, exact)[rank])


def communicator_of(
    graph: Graph,
    config: RunConfig,
    links: list[Link | None],
    rank: int,
    watched: dict[int, Link],
) -> Communicator:
    """Return the links of one node to all others, with buffers for the collectives of its graph.

    Args:
        graph: of any node, since all of them know what each one sends.
        config: what all nodes agree on.
        links: by rank, None for this node.
        rank: of this node.
        watched: links by rank whose end also ends an exchange: a worker's control link, which shows
            that the root has gone.
    """
    shard = graph.shard
    sent = {task.dst for task in graph.tasks if task.op == "broadcast"}
    rows = (buffer.width for buffer in graph.buffers if buffer.name in sent)
    blocks = zip(*(one.adds for one in shard.sums), strict=True)
    return Communicator(
        links,
        rank,
        sums=[max(map(len, adds)) for adds in blocks],
        dim=graph.spec.dim,
        max_rows=config.batch,
        wire=config.buffer,
        algorithm=config.all_reduce,
        timeout=config.patience,
        watched=watched,
        widest=max(rows),
    )


class Node:
    """An executor with its weights and KV cache.

    Args:
        graph: of this node.
        weights: of the graph.
        config: what all nodes agree on.
        threads: for computing.
        communicator: links to the other nodes; None if there are none.

    Attributes:
        logits: float32 (wanted rows, ids of this node's vocabulary shard) of the last pass.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        config: RunConfig,
        threads: int,
        communicator: Communicator | None,
    ) -> None:
        self.graph = graph
        self.shard = graph.shard
        self.communicator = communicator
        self.seq_len = config.seq_len
        self._weight_bytes = weights.nbytes
        self._executor = Executor(
            graph,
            weights.matrices,
            weights.vectors,
            weights.embeddings,
            threads=threads,
            max_rows=config.batch,
            max_logits=config.logits,
            max_positions=config.seq_len,
            kv_type=int(NUMBERS[config.kv_cache]),
            sequences=config.parallel,
            lag=config.lag,
            kv_blocks=[pool.count for pool in pools(graph.spec, config)],
            communicator=communicator,
            halves=communicator is not None and config.halves,
        )
        self._transfers = self._executor.transfers()
        self.logits: NDArray[np.float32] = np.empty((0, len(self.shard.vocab)), np.float32)

    def run(self, ids: NDArray[np.int32], batch: Batch, encoding: int = 0) -> NDArray[np.float32]:
        """Evaluate a batch.

        Args:
            ids: int32 (rows,). Only the root's matter; those of other nodes may be any in range.
            batch: the sequences, positions and KV blocks of the rows, and which are wanted.
            encoding: of the rows that the root broadcasts (comm/broadcast.pxd).

        Returns:
            float32 (wanted rows, ids of this node's vocabulary shard), valid until the next pass.

        Raises:
            ValueError: the batch does not fit; nothing is evaluated.
            TransportError: a node failed; this one cannot go on.
        """
        self.logits = self._executor.run(ids, batch.spans, batch.wanted, batch.copies, encoding)
        return self.logits

    def states(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return rows of the last pass after the final norm: float32 (rows, dim)."""
        return self._executor.states(rows)

    def memory(self) -> dict[str, int]:
        """Return the bytes of each of MEMORY; kv_cache is that of all sequences."""
        return {"weights": self._weight_bytes, **self._executor.memory()}

    def times(self) -> tuple[float, float]:
        """Return the milliseconds of computing and of transfers in the last pass."""
        stages = self._executor.milliseconds()
        transfer = float(stages[self._transfers].sum())
        return float(stages.sum()) - transfer, transfer

    def timeline(self) -> dict[str, Any]:
        """Return when the last pass began, and how long its stages took.

        Returns:
            began: nanoseconds of this node's clock.
            ms: milliseconds of each stage.
        """
        return {"began": self._executor.began, "ms": self._executor.milliseconds().tolist()}

    def labels(self) -> list[tuple[str, str]]:
        """Return (name, kind) for each stage of a timeline; the kind is inference or transfer."""
        return [
            (
                f"{task.op} {task.weight or task.layer}{'' if half is None else HALVES[half]}",
                task.kind.name.lower(),
            )
            for task, half in self._executor.tasks()
        ]
