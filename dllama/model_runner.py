"""Passes of a model: what goes through it, what that costs, and what happens when a node fails."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama.cluster.protocol import Want
from dllama.cluster.root import Root
from dllama.errors import DllamaError, ModelError, ProtocolError
from dllama.run_config import RunConfig
from dllama.runtime.sequence import Part, Sequence
from dllama.runtime.sequences import Sequences
from dllama.runtime.stats import PREFILL, Stats, StepStats
from dllama.runtime.trace import NodePass
from dllama.sampling.lockstep import Asking, Row, drive

T = TypeVar("T")


class ModelRunner:
    """Evaluates ids of sequences on all nodes. Close it.

    Every method but close raises ModelError once it is closed, and TransportError or ProtocolError
    when a node fails. After that it is closed, and later calls name the first cause. The same goes
    for an exception of a signal handler, such as KeyboardInterrupt, while there are workers: nobody
    knows then which messages are on their way.

    Args:
        root: the model on its nodes, closed with the runner.
        sequences: which ids are evaluated, and which are pending.
        config: what all nodes agree on.
        model: path of the model file, for messages.
        trace: keep the timeline of every pass.

    Attributes:
        stats: one step for each pass.
        timelines: of all nodes, pass by pass; empty without trace.
    """

    def __init__(
        self,
        root: Root,
        sequences: Sequences,
        config: RunConfig,
        *,
        model: Path,
        trace: bool,
    ) -> None:
        self.stats = Stats()
        self.timelines: list[NodePass] = []
        self._root: Root | None = root
        self._sequences = sequences
        self._config = config
        self._model = model
        self._trace = trace
        self._failure: BaseException | None = None
        self._traffic = root.traffic()
        self._began = self._ended = 0.0
        weakref.finalize(self, root.close)  # if nobody calls close

    @property
    def root(self) -> Root:
        """The model on its nodes."""
        if self._root is None:
            failure = str(self._failure) or "it was interrupted during a pass"
            why = f"cannot go on: {failure}" if self._failure else "is closed"
            raise ModelError(f"{self._model} {why}") from self._failure
        return self._root

    def close(self) -> None:
        """Let workers go and give the memory back. A second call does nothing."""
        root, self._root = self._root, None
        if root is not None:
            root.close()

    def ping(self) -> None:
        """Make sure that all workers are there."""
        with self._closing_on_failure():
            self.root.ping()
            self._traffic = self.root.traffic()

    def logits(self, sequence: Sequence, given: list[int]) -> NDArray[np.float32]:
        """Evaluate what is pending of a sequence, then ids.

        Args:
            sequence: any.
            given: the n ids; all of them fit (Sequences.require).

        Returns:
            float32 (n, vocab_size): the logits after each of them.
        """
        self._sequences.recover(sequence)
        self._sequences.suit(sequence, len(given))
        rows, known = self._config.logits, len(sequence.pending)
        out = np.empty((len(given), self._sequences.vocab_size), np.float32)
        end = known + len(given) if given else 0
        for begin in range(0, end, rows):
            until = max(0, begin + rows - known)
            new = given[max(0, begin - known) : until]
            ids = sequence.pending[:rows] + new
            self._sequences.reserve(sequence, len(ids), self._sequences.busy(sequence))
            wanted = range(len(ids) - len(new), len(ids))
            self.run([Part(sequence, ids, wanted)], Want.LOGITS if wanted else Want.NOTHING)
            if wanted:
                at = max(0, begin - known)
                with self._closing_on_failure():
                    out[at : at + len(new)] = self.root.logits()
            self._sequences.extend(sequence, new, len(given[until:]))
            self._sequences.evaluated(sequence, len(ids))
            self.finish(PREFILL, len(ids))
        return out

    def run(self, parts: list[Part], want: Want) -> None:
        """Evaluate rows of some sequences on all nodes. Call finish after what follows the pass.

        Args:
            parts: at most as many rows as a batch has; there is room for them (Sequences.reserve).
            want: what workers send of the logits.
        """
        ids = [token for part in parts for token in part.ids]
        self._began = time.perf_counter()
        batch = self._sequences.batch(parts)
        self._sequences.runs(parts)
        with self._closing_on_failure():
            self.root.run(ids, batch, want)
        self._sequences.copied(parts)
        self._ended = time.perf_counter()

    def states(self, rows: Ids[int]) -> NDArray[np.float32]:
        """Return rows of the last pass after the final norm: float32 (rows, dim)."""
        return self.root.states(rows)

    def rows(self) -> list[Row]:
        """Return the wanted rows of the last pass, as the sampler reads them."""
        with self._closing_on_failure():
            return self.root.rows()

    def drive(self, asking: Asking[T]) -> T:
        """Ask the nodes about rows of the last pass until the result is there."""
        with self._closing_on_failure():
            return drive(asking, self.root.ask)

    def finish(self, phase: str, tokens: int, drafted: int = 0, accepted: int = 0) -> None:
        """Count the last pass, with what it sent and what was done since, and keep its timeline.

        Args:
            phase: of the pass, for the statistics.
            tokens: that it evaluated or generated.
            drafted: ids that were proposed and checked.
            accepted: those of them that turned out right.
        """
        root, before, now = self.root, self._traffic, time.perf_counter()
        sent, received = root.traffic()
        sample_ms = (now - self._ended) * 1e3
        self.stats.add(
            StepStats(
                phase,
                tokens,
                (now - self._began) * 1e3,
                *root.times(),
                sample_ms,
                sent - before[0],
                received - before[1],
                drafted,
                accepted,
            )
        )
        if self._trace:
            with self._closing_on_failure():
                self.timelines += root.timelines()
        self._traffic = root.traffic()

    @contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        """Let all nodes go when they cannot go on together, and remember why."""
        try:
            yield
        except BaseException as error:
            failed = isinstance(error, (ConnectionError, ProtocolError))
            cut = not isinstance(error, DllamaError) and self._config.world_size > 1
            if failed or cut:
                self._failure = error
                self.close()
            raise
