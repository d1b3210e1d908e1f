"""The root: its own node and any workers, as one model."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dllama._kernels import cpu
from dllama.cluster import protocol
from dllama.cluster.coordinator import Coordinator
from dllama.cluster.forming import form_cluster
from dllama.cluster.layout import Layout
from dllama.cluster.local import LocalWorkers
from dllama.cluster.protocol import Want
from dllama.cluster.run_message import Run
from dllama.errors import ModelError
from dllama.graph.weights import FileSource, graph_nbytes, load
from dllama.model.stored_model import StoredModel
from dllama.progress import SILENT, Progress, byte_bar
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch
from dllama.runtime.node import Node, graph_of
from dllama.runtime.trace import NodePass
from dllama.sampling import remote
from dllama.sampling.lockstep import Questions, Replies, Row
from dllama.sampling.shard import Shard


class Root:
    """A model on one or several nodes. Close it.

    It evaluates batches. Which sequences there are is not its business.

    Args:
        model: the open model.
        config: what all nodes agree on.
        layout: where the nodes are.
        progress: who is told how far weights are sent and loaded.

    Raises:
        ModelError: the model does not fit into memory.
        TransportError, AuthenticationError, ProtocolError: a worker (see form_cluster).
    """

    def __init__(
        self,
        model: StoredModel,
        config: RunConfig,
        layout: Layout,
        progress: Progress = SILENT,
    ) -> None:
        self._local: LocalWorkers | None = None
        self._coordinator: Coordinator | None = None
        self._node: Node | None = None
        self._config = config
        self._want = Want.NOTHING
        graph = graph_of(model.spec, config, 0, model.path)
        try:
            if config.world_size > 1:
                self._coordinator = self._join(model, layout, progress)
            threads = layout.threads[0]
            with byte_bar(graph_nbytes(graph), "loading", progress) as count:
                weights = load(graph, FileSource(model), threads, count)
            self._embeddings = weights.embeddings
            communicator = self._coordinator.communicator if self._coordinator else None
            self._node = Node(graph, weights, config, threads, communicator)
        except MemoryError as error:
            self.close()
            raise ModelError(f"{model.path}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _join(self, model: StoredModel, layout: Layout, progress: Progress) -> Coordinator:
        """Form the cluster, with workers on this machine unless others are named."""
        assert layout.transport is not None
        addresses: Sequence[str] = layout.addresses
        secret, crowded = layout.secret, layout.crowded
        if not addresses:
            self._local = LocalWorkers(layout.transport, layout.threads)
            addresses, secret = self._local.addresses, self._local.secret
            crowded = sum(layout.threads) > len(cpu.cores())
        crowded |= os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        coordinator = form_cluster(
            addresses,
            layout.names,
            layout.transport,
            secret,
            model,
            self._config,
            threads=layout.threads,
            crowded=crowded,
            plain=layout.plain,
            progress=progress,
        )
        if self._local:
            self._local.forget_addresses()
        return coordinator

    def run(self, ids: Sequence[int], batch: Batch, want: Want) -> None:
        """Evaluate a batch on all nodes.

        Args:
            ids: of the rows.
            batch: the sequences, positions and KV blocks of the rows, and which are wanted.
            want: what workers send of the logits afterwards.

        Raises:
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        node, array = self._opened(), np.array(ids, np.int32)
        self._want, encoding = want, 0
        if self._coordinator:
            assert node.communicator is not None
            rows = [one.lookup(array) for one in self._embeddings.values()]
            encoding = node.communicator.encoding_of(np.concatenate(rows, axis=1))
            self._coordinator.start(Run(batch, encoding, want))
        try:
            node.run(array, batch, encoding)
        except ConnectionError:
            if self._coordinator:
                self._coordinator.check()
            raise

    def ping(self) -> None:
        """Wait until all workers have replied.

        Raises:
            TransportError, ProtocolError: one did not; the model cannot go on.
        """
        self._opened()
        if self._coordinator:
            self._coordinator.ask({"ask": "clock"})

    def logits(self) -> NDArray[np.float32]:
        """Return the logits of the wanted rows, if run was called with Want.LOGITS.

        Returns:
            float32 (wanted rows, vocab_size), valid until the next pass.
        """
        node = self._opened()
        if self._coordinator is None or self._want is not Want.LOGITS:
            return node.logits
        return self._coordinator.logits(node.logits)

    def states(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return rows of the last pass after the final norm: float32 (rows, dim).

        The root has the whole residual stream when a pass ends, so no worker is asked.
        """
        return self._opened().states(rows)

    def rows(self) -> list[Row]:
        """Return the wanted rows, as the sampler reads them.

        With workers, run must have been called with Want.TOP.

        Raises:
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        logits = self._opened().logits
        if self._coordinator is None:
            return [Row(Shard(row)) for row in logits]
        found = self._coordinator.tops(len(logits))
        for tops in found:
            remote.check_tops(tops, self._others)
        return [
            Row(Shard(logits[number]), number=number, tops=tops)
            for number, tops in enumerate(found)
        ]

    def ask(self, questions: Questions) -> Replies:
        """Ask all nodes about rows. There must be workers; errors are those of `rows`."""
        assert self._coordinator
        return remote.ask(questions, self._others, self._coordinator.ask, protocol.MAX_JSON)

    @property
    def _others(self) -> list[tuple[str, range]]:
        """Name and ids of the vocabulary shards of the workers."""
        assert self._coordinator
        return [(member.name, member.vocab) for member in self._coordinator.members]

    def traffic(self) -> tuple[int, int]:
        """Return the bytes that this node sent and received so far."""
        return self._coordinator.traffic() if self._coordinator else (0, 0)

    def times(self) -> tuple[float, float]:
        """Return this node's milliseconds of computing and of transfers in the last pass."""
        return self._opened().times()

    def memory(self) -> list[dict[str, int]]:
        """Return the bytes of weights, kv_cache and buffers of every node, by rank."""
        members = self._coordinator.members if self._coordinator else []
        return [self._opened().memory(), *(member.memory for member in members)]

    def names(self) -> list[str]:
        """Return the names of the nodes by rank, "" for this one and those that have none."""
        members = self._coordinator.members if self._coordinator else []
        return ["", *(member.given_name for member in members)]

    def timelines(self) -> list[NodePass]:
        """Return the stages of the last pass on every node, in the root's time."""
        node = self._opened()
        passes = [NodePass.of(0, node.timeline(), node.labels(), 0)]
        if self._coordinator:
            lines = self._coordinator.ask({"ask": "timeline"})
            labels = self._coordinator.ask({"ask": "labels"})
            for member, line, names in zip(self._coordinator.members, lines, labels, strict=True):
                found = names.get("labels", ())
                passes.append(NodePass.of(member.rank, line, found, member.clock))
        return passes

    def close(self) -> None:
        """Let the workers go and give the memory back. A second call does nothing."""
        worked = self._node is not None and not (self._coordinator and self._coordinator.failed)
        self._node = None
        if self._coordinator:
            self._coordinator.close()
        if self._local:
            self._local.stop(wait=worked)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that this process started."""
        return self._local.pids() if self._local else []

    def _opened(self) -> Node:
        if self._node is None:
            raise ModelError("the model is closed")
        return self._node
