"""Passes of a model: what goes through it, what that costs, and what happens when a node fails."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.cluster.protocol import Want
from dllama.cluster.root import Root
from dllama.errors import DllamaError, ModelError, ProtocolError
from dllama.run_config import RunConfig
from dllama.runtime.sequences import Sequences
from dllama.runtime.stats import PREFILL, Stats, StepStats
from dllama.runtime.trace import NodePass
from dllama.sampling.log_probabilities import log_probabilities
from dllama.sampling.sampler import Sampler
from dllama.text.stream import Token


class ModelRunner:
    """Evaluates ids of the current sequence on all nodes. Close it.

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

    def logits(self, given: list[int]) -> NDArray[np.float32]:
        """Evaluate what is pending, then ids.

        Args:
            given: the n ids; all of them fit (Sequences.require).

        Returns:
            float32 (n, vocab_size): the logits after each of them.
        """
        sequence, rows = self._sequences.current, self._config.logits
        ids = sequence.pending + given
        first = len(ids) - len(given)
        out = np.empty((len(given), self._sequences.vocab_size), np.float32)
        with self._closing_on_failure():
            for begin in range(0, len(ids) if given else 0, rows):
                end = min(begin + rows, len(ids))
                wanted = range(max(begin, first), end)
                want = Want.LOGITS if wanted else Want.NOTHING
                self._pass(ids[begin:end], range(wanted.start - begin, end - begin), PREFILL, want)
                if wanted:
                    out[wanted.start - first : end - first] = self.root.logits()
                self._finish_step()
                del sequence.pending[:rows]
        return out

    def next_token(
        self,
        sampler: Sampler,
        history: list[int],
        phase: str,
        logprobs: int | None,
        interrupted: Callable[[], bool],
    ) -> Token | None:
        """Evaluate what is pending and sample the token that follows, which is pending then.

        Args:
            sampler: chooses the token.
            history: ids of the sequence, pending ones included, for the repetition penalty.
            phase: PREFILL or DECODE, for the statistics.
            logprobs: how many alternatives to give; None for no log-probabilities.
            interrupted: asked after every batch that another one follows.

        Returns:
            The token without text, or None if it was interrupted.
        """
        rows, sequence = self._config.batch, self._sequences.current
        with self._closing_on_failure():
            while len(sequence.pending) > rows:
                self._pass(sequence.pending[:rows], range(0), phase, Want.NOTHING)
                self._finish_step()
                del sequence.pending[:rows]
                if interrupted():
                    return None
            last_row = len(sequence.pending) - 1
            self._pass(sequence.pending, range(last_row, last_row + 1), phase, Want.TOP)
            begin = time.perf_counter()
            (shards,) = self.root.shards()
            token = Token(sampler.sample(shards, history), "")
            if logprobs is not None:
                found = log_probabilities(shards, token.id, logprobs)
                token = replace(token, logprob=found.token, top=found.best)
            self.stats.charge(sample_ms=(time.perf_counter() - begin) * 1e3)
            self._finish_step()
        sequence.pending = [token.id]
        return token

    def _pass(self, ids: list[int], wanted: range, phase: str, want: Want) -> None:
        """Evaluate the next ids of the current sequence on all nodes.

        Args:
            ids: at most as many as a batch has rows.
            wanted: rows whose logits are wanted.
            phase: PREFILL or DECODE, for the statistics.
            want: what workers send of the logits.
        """
        root, begin = self.root, time.perf_counter()
        batch = self._sequences.next_batch(len(ids), wanted)
        try:
            root.run(ids, batch, want)
        except BaseException:  # of a signal handler, too
            self._sequences.take_back(batch)
            raise
        total_ms = (time.perf_counter() - begin) * 1e3
        self._sequences.evaluated(ids, given=phase == PREFILL)
        self.stats.add(StepStats(phase, len(ids), total_ms, *root.times(), 0.0, 0, 0))

    def _finish_step(self) -> None:
        """Count the traffic of a step after its last message, and keep its timeline."""
        root, before = self.root, self._traffic
        sent, received = root.traffic()
        self.stats.charge(sent_bytes=sent - before[0], received_bytes=received - before[1])
        if self._trace:
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
