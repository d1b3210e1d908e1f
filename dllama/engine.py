"""The engine: a loaded model, its context, and text generation."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama._kernels import cpu
from dllama.cluster.layout import Layout
from dllama.cluster.protocol import Want
from dllama.cluster.root import Root
from dllama.errors import ConfigError, ModelError, ProtocolError
from dllama.model.file import ModelFile
from dllama.model.spec import ModelSpec
from dllama.model_path import model_file, model_name, tokenizer_of
from dllama.option import documented
from dllama.run_config import RunConfig
from dllama.runtime.sequences import Sequences
from dllama.runtime.stats import DECODE, PREFILL, Stats, StepStats
from dllama.runtime.trace import NodePass
from dllama.sampling.log_probabilities import log_probabilities
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.text.stream import End, TextStream, Token, stop_strings

log = logging.getLogger("dllama.engine")


@documented(options.LLM_OPTIONS)
class LLM:
    """A model and a context of tokens, or several; one thread at a time may use it.

    Args:
    {arguments}

    Several contexts keep texts for continue_from; everything else is about the one that it chose
    last. `name` says what to call the model.

    Raises:
        ConfigError: an argument is wrong; the message names it.
        FormatError, UnsupportedError: a file cannot be read, or holds what dllama does not run.
        ModelError: there is no such model, or it does not fit into memory.
        TransportError, ProtocolError, AuthenticationError: a worker.
    """

    def __init__(
        self,
        model: str | Path | None = options.MODEL.default,
        *,
        tokenizer: str | Path | None = options.TOKENIZER.default,
        nodes: int = options.NODES.default,
        workers: Sequence[str] = (),
        transport: str | None = options.TRANSPORT.default,
        threads: int | Sequence[int | None] | None = options.THREADS.default,
        shares: Sequence[float] | None = options.SHARES.default,
        buffer: str | None = options.BUFFER.default,
        all_reduce: str = options.ALL_REDUCE.default,
        timeout: float = options.TIMEOUT.default,
        secret_file: str | Path | None = options.SECRET_FILE.default,
        max_seq_len: int | None = options.MAX_SEQ_LEN.default,
        contexts: int | None = options.CONTEXTS.default,
        kv_cache: str = options.KV_CACHE.default,
        batch_size: int | None = options.BATCH_SIZE.default,
        trace: bool = options.KEEP_TRACE.default,
        progress: bool = options.PROGRESS.default,
    ) -> None:
        layout = Layout.of(nodes, workers, transport, threads, secret_file)
        self.nodes, self.threads = layout.world_size, layout.threads[0]
        self.transport: str | None = layout.transport.name if layout.transport else None
        self.model_path = model_file(model, progress)
        self.name = model_name(model, self.model_path)
        log.info("kernels for %s, %d threads", cpu.isa(), self.threads)
        self.stats = Stats()
        self.timelines: list[NodePass] = []
        self._trace = trace
        self._interrupted = False
        self._root: Root | None = None
        self._failure: Exception | None = None
        with ModelFile.open(self.model_path) as file:
            self.spec: ModelSpec = file.spec
            self._config = RunConfig.of(
                self.spec,
                self.nodes,
                shares=shares,
                buffer=buffer,
                all_reduce=all_reduce,
                timeout=timeout,
                max_seq_len=max_seq_len,
                contexts=contexts,
                kv_cache=kv_cache,
                batch_size=batch_size,
            )
            self.buffer, self.seq_len = self._config.buffer, self._config.seq_len
            self._sequences = Sequences(self.spec.vocab_size, self.seq_len, self._config.contexts)
            self.tokenizer = tokenizer_of(self.model_path, tokenizer, self.spec)
            self._root = Root(file, self._config, layout, progress)
            weakref.finalize(self, self._root.close)  # where nobody calls close
        self._traffic = self._root.traffic()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let workers go and give the memory back; a second call does nothing, all other use is
        a ModelError."""
        root, self._root = self._root, None
        if root is not None:
            root.close()

    def reset(self) -> None:
        """Forget all contexts, the statistics and the timelines."""
        self._sequences.clear()
        self.stats.clear()
        self.timelines.clear()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the context that are evaluated: those whose keys and values are kept."""
        return tuple(self._sequences.current.tokens)

    @property
    def position(self) -> int:
        """How many these are."""
        return self._sequences.current.position

    @property
    def contexts(self) -> int:
        """How many contexts there are."""
        return self._config.contexts

    def rewind(self, position: int) -> None:
        """Keep the first `position` tokens of the context and forget all others.

        What follows has the bits that it has without them. ConfigError where fewer are evaluated.
        """
        self._sequences.rewind(position)

    def continue_from(self, tokens: Sequence[int]) -> int:
        """Make these ids the context, of which generate([]) goes on.

        The longest beginning that they have in common with a context is kept and not evaluated
        again, except for the last id, whose logits are needed. Returns how many are kept. The
        rest waits for the next pass, so this takes no time. Of several contexts the one with that
        beginning is continued, or where that would lose some of a prompt a copy of the beginning,
        in the context that was not used for the longest time. ConfigError for no ids or one out
        of range, ContextError where they do not fit; nothing changes then.
        """
        return self._sequences.continue_from(tokens)

    def interrupt(self) -> None:
        """Make generate end after the pass that it is in, from another thread or a signal handler.

        A prompt that is not evaluated by then stays to be evaluated. Without a text that is being
        generated it does nothing.
        """
        self._interrupted = True

    def ping(self) -> None:
        """Make sure that all workers are there, while nothing is generated.

        TransportError, ProtocolError: one is not, and the model cannot go on.
        """
        root = self._open()
        with self._ending_on_failure():
            root.ping()
        self._traffic = root.traffic()

    def memory(self, rank: int = 0) -> dict[str, int]:
        """Bytes of a node (0: this one): weights, kv_cache (all of all contexts), buffers."""
        return self._open().memory()[rank]

    def eval(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits float32 (n, vocab_size) after each of n tokens, which extend the context.

        ConfigError for an id out of range, ContextError where the tokens do not fit; the
        context is then as it was.
        """
        given = self._sequences.check(tokens)
        ids = self._sequences.current.pending + given
        self._sequences.require(len(ids))
        out = np.empty((len(given), self.spec.vocab_size), np.float32)
        step, first = self._config.logits, len(ids) - len(given)
        for begin in range(0, len(ids) if given else 0, step):
            end = min(begin + step, len(ids))
            rows = end - max(begin, first)
            want = Want.LOGITS if rows > 0 else Want.NOTHING
            self._pass(
                ids[begin:end], range(end - begin - max(0, rows), end - begin), PREFILL, want
            )
            if rows > 0:
                with self._ending_on_failure():
                    out[end - first - rows : end - first] = self._open().logits()
            self._finish_step()
            del self._sequences.current.pending[:step]
        return out

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int | None = None,
        *,
        temperature: float = options.TEMPERATURE.default,
        top_p: float = options.TOP_P.default,
        top_k: int = options.TOP_K.default,
        min_p: float = options.MIN_P.default,
        repetition_penalty: float = options.REPETITION_PENALTY.default,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
    ) -> Iterator[Token]:
        """Extend the context by the prompt, then yield tokens as they are generated.

        Ends after max_tokens (None: when the context is full), with an end-of-sequence id
        unless ignore_eos, with one of stop_ids, before a stop string, or when interrupted.
        temperature 0 is greedy; a seed repeats a text. logprobs: give tokens their
        log-probability and this many alternatives (None: neither). Arguments are checked here,
        not at the first token: ConfigError for a bad one, ContextError where prompt and
        max_tokens do not fit.
        """
        config = SamplerConfig(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        options.LOGPROBS.argument(logprobs)
        stops = stop_strings(stop)
        if stops and self.tokenizer is None:
            raise ConfigError(f"stop is {stop!r}, but {self.model_path} has no tokenizer")
        ids = self._sequences.current.pending + self._prompt_ids(prompt)
        limit = self._sequences.limit(len(ids), max_tokens)
        sampler = Sampler(config)
        self._interrupted = False
        eos = () if ignore_eos or self.tokenizer is None else self.tokenizer.eos_ids
        eos = (*eos, *self._sequences.check(stop_ids))
        stream = TextStream(self.tokenizer, stops)
        return self._generate(ids, limit, sampler, stream, eos, logprobs)

    def _generate(
        self,
        ids: list[int],
        limit: int,
        sampler: Sampler,
        stream: TextStream,
        eos: Sequence[int],
        logprobs: int | None,
    ) -> Iterator[Token]:
        """Up to `limit` tokens that follow ids; eos: those that end a text."""
        history = self._sequences.current.tokens + ids
        self._sequences.current.pending = ids
        for count in range(1, limit + 1):
            token = self._next(sampler, history, PREFILL if count == 1 else DECODE, logprobs)
            if token is None:
                return
            history.append(token.id)
            text = "" if token.id in eos else stream.push(token.id)
            ends = (
                (End.EOS, token.id in eos),
                (End.STOP, stream.stopped),
                (End.LENGTH, count == limit),
                (End.INTERRUPT, self._interrupted),
            )
            end = next((end for end, reached in ends if reached), None)
            yield replace(token, text=text + stream.flush() if end else text, end=end)
            if end:
                return

    def _next(
        self, sampler: Sampler, history: list[int], phase: str, logprobs: int | None
    ) -> Token | None:
        """Evaluate what is pending, sample the token that follows; it is pending then.

        None where an interruption came before all but the last batch was evaluated.
        """
        rows, sequence = self._config.batch, self._sequences.current
        while len(sequence.pending) > rows:
            self._pass(sequence.pending[:rows], range(0), phase, Want.NOTHING)
            self._finish_step()
            del sequence.pending[:rows]
            if self._interrupted:
                return None
        last_row = len(sequence.pending) - 1
        self._pass(sequence.pending, range(last_row, last_row + 1), phase, Want.TOP)
        begin = time.perf_counter()
        with self._ending_on_failure():
            (shards,) = self._open().shards()
            token = Token(sampler.sample(shards, history), "")
            if logprobs is not None:
                found = log_probabilities(shards, token.id, logprobs)
                token = replace(token, logprob=found.token, top=found.best)
        sample_ms = (time.perf_counter() - begin) * 1e3
        last = self.stats.steps[-1]
        self.stats.amend(replace(last, sample_ms=sample_ms, total_ms=last.total_ms + sample_ms))
        self._finish_step()
        sequence.pending = [token.id]
        return token

    def _pass(self, ids: list[int], wanted: range, phase: str, want: Want) -> None:
        """One pass over all nodes: the next ids of the current sequence.

        Args:
            ids: at most as many as a batch has rows.
            wanted: those whose logits are wanted, by their place in ids.
            phase: PREFILL or DECODE, for the statistics.
            want: what is asked of the logits.
        """
        root = self._open()
        begin = time.perf_counter()
        batch = self._sequences.plan(len(ids), wanted)
        with self._ending_on_failure():
            root.run(ids, batch, want)
        total_ms = (time.perf_counter() - begin) * 1e3
        self._sequences.evaluated(ids, given=phase == PREFILL)
        inference_ms, transfer_ms = root.times()
        step = StepStats(phase, len(ids), total_ms, inference_ms, transfer_ms, 0.0, 0, 0)
        self.stats.add(step)

    def _finish_step(self) -> None:
        """After the last message of a step: its traffic, and its timeline if one is kept."""
        self._count_traffic()
        if self._trace:
            root = self._open()
            with self._ending_on_failure():
                self.timelines += root.timelines()
            self._traffic = root.traffic()

    def _count_traffic(self) -> None:
        """Add what this node sent and received since the last count to the last step."""
        before, self._traffic = self._traffic, self._open().traffic()
        last = self.stats.steps[-1]
        self.stats.amend(
            replace(
                last,
                sent_bytes=last.sent_bytes + self._traffic[0] - before[0],
                received_bytes=last.received_bytes + self._traffic[1] - before[1],
            )
        )

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """Let all nodes go where one failed; later calls repeat the first cause."""
        try:
            yield
        except (ConnectionError, ProtocolError) as error:
            self._failure = error
            self.close()
            raise

    def _open(self) -> Root:
        if self._root is None:
            why = f"cannot go on: {self._failure}" if self._failure else "is closed"
            raise ModelError(f"{self.model_path} {why}") from self._failure
        return self._root

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Ids of a prompt; at the beginning of the context the tokenizer may put a bos."""
        if not isinstance(prompt, str):
            ids = self._sequences.check(prompt)
        elif self.tokenizer is None:
            raise ConfigError(f"the prompt is text, but {self.model_path} has no tokenizer")
        else:
            begins = self.position == 0 and not self._sequences.current.pending
            ids = self.tokenizer.encode(prompt, add_bos=None if begins else False)
            if not ids and begins and self.tokenizer.bos_id is not None:
                ids = [self.tokenizer.bos_id]
        if not ids and not self._sequences.current.pending:
            raise ConfigError("the prompt is empty and there is no token to begin with")
        return self._sequences.check(ids)
