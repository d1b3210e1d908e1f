"""The engine: a loaded model, its sequences, and text generation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama._kernels import cpu
from dllama.cluster.layout import Layout
from dllama.cluster.root import Root
from dllama.errors import ConfigError
from dllama.model_path import model_name, open_model, tokenizer_of
from dllama.model_runner import ModelRunner
from dllama.options.option import documented
from dllama.run_config import RunConfig
from dllama.runtime.sequences import Sequences
from dllama.runtime.stats import DECODE, PREFILL
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.text.stream import End, TextStream, Token, stop_strings

log = logging.getLogger("dllama.engine")


@documented(options.LLM_OPTIONS)
class LLM:
    """A model and its sequences. One thread at a time may use it; close it.

    All methods work on the current sequence, which is the one that continue_from chose last.

    Args:
    {arguments}

    Attributes:
        name: what to call the model.
        spec: its shape.
        tokenizer: None if it has none.
        stats: what each pass cost.
        timelines: the passes of every node, with trace.

    Raises:
        ConfigError: an argument is wrong; the message names it.
        FormatError, UnsupportedError: a file cannot be read, or holds what dllama does not run.
        ModelError: there is no such model, or it does not fit into memory.
        TransportError, ProtocolError, AuthenticationError: a worker cannot be reached or fails.
    """

    def __init__(
        self,
        model: str | Path | None = options.MODEL.default,
        *,
        tokenizer: str | Path | None = options.TOKENIZER.default,
        requantise: bool = options.REQUANTISE.default,
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
        log.info("kernels for %s, %d threads", cpu.isa(), self.threads)
        self._interrupted = False
        convert = options.REQUANTISE.require(requantise)
        with open_model(model, convert) as stored:
            self.model_path, self.spec = stored.path, stored.spec
            self.name = model_name(self.model_path)
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
            self.tokenizer = tokenizer_of(stored, tokenizer)
            root = Root(stored, self._config, layout, progress)
        self._runner = ModelRunner(
            root, self._sequences, self._config, model=self.model_path, trace=trace
        )
        self.stats, self.timelines = self._runner.stats, self._runner.timelines

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let workers go and give the memory back.

        A second call does nothing. All other use is a ModelError afterwards.
        """
        self._runner.close()

    def reset(self) -> None:
        """Forget all sequences, the statistics and the timelines."""
        self._sequences.clear()
        self.stats.clear()
        self.timelines.clear()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the current sequence that are evaluated: those whose keys and values are kept."""
        return tuple(self._sequences.current.tokens)

    @property
    def position(self) -> int:
        """How many ids of the current sequence are evaluated."""
        return self._sequences.current.position

    @property
    def contexts(self) -> int:
        """How many sequences are kept."""
        return self._config.contexts

    def rewind(self, position: int) -> None:
        """Keep the beginning of the current sequence and forget the rest.

        What follows has the same bits as if the rest had never been there.

        Args:
            position: how many evaluated ids to keep.

        Raises:
            ConfigError: fewer are evaluated.
        """
        self._sequences.rewind(position)

    def continue_from(self, tokens: Sequence[int]) -> int:
        """Make these ids the current sequence, so that generate([]) goes on from them.

        The longest prefix that they share with a kept sequence is not evaluated again. The rest, at
        least the last id, is pending: the next pass evaluates it, so this call takes no time. If
        going on in that sequence would lose much of its prompt, another one takes its prefix: the
        one that was not used for the longest time.

        Args:
            tokens: at least one id.

        Returns:
            How many ids are kept, that is, need not be evaluated.

        Raises:
            ConfigError: there are no ids, or one is out of range; nothing changes.
            ContextError: they do not fit; nothing changes.
        """
        return self._sequences.continue_from(tokens)

    def interrupt(self) -> None:
        """Make generate end after the current pass.

        Call it from another thread or a signal handler. What is not evaluated of a prompt by then
        remains pending. If no text is being generated, nothing happens.
        """
        self._interrupted = True

    def ping(self) -> None:
        """Make sure that all workers are there. Call it while nothing is generated.

        Raises:
            TransportError, ProtocolError: one is gone; the model cannot go on.
        """
        self._runner.ping()

    def memory(self, rank: int = 0) -> dict[str, int]:
        """Return the bytes that a node takes.

        Args:
            rank: of the node; 0 for this one.

        Returns:
            Bytes of weights, kv_cache (of all sequences) and buffers.
        """
        return self._runner.root.memory()[rank]

    def eval(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Extend the current sequence by tokens and return their logits.

        Args:
            tokens: n ids.

        Returns:
            float32 (n, vocab_size): the logits after each of them.

        Raises:
            ConfigError: an id is out of range; the sequence is as it was.
            ContextError: the tokens do not fit; the sequence is as it was.
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        given = self._sequences.check(tokens)
        self._sequences.require(len(self._sequences.current.pending) + len(given))
        return self._runner.logits(given)

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
        """Extend the current sequence by a prompt, then yield tokens as they are generated.

        Arguments are checked when this is called, not when the first token is asked for.

        Args:
            prompt: text, or token ids; empty to go on from what is pending.
            max_tokens: most to generate; None: until the context is full.
            temperature: 0 takes the likeliest token.
            top_p: sample from the likeliest tokens with this total probability.
            top_k: sample from so many of the likeliest tokens; 0: from all.
            min_p: sample from tokens at least this times as likely as the likeliest.
            repetition_penalty: above 1, tokens of the sequence become less likely.
            seed: the same one gives the same text; None: a new one every time.
            stop: strings before which the text ends.
            stop_ids: ids with which it ends, as with an end-of-sequence id.
            ignore_eos: do not end with an end-of-sequence id.
            logprobs: give tokens their log-probability, and this many alternatives; None: neither.

        Yields:
            Tokens; the last one says why the text ends, unless it was interrupted in the prompt.

        Raises:
            ConfigError: an argument is wrong; the message names it.
            ContextError: prompt and max_tokens do not fit.
            TransportError, ProtocolError: a worker failed; the model cannot go on.
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
        ends = (*eos, *self._sequences.check(stop_ids))
        return self._generate(
            ids, limit, sampler, TextStream(self.tokenizer, stops), ends, logprobs
        )

    def _generate(
        self,
        ids: list[int],
        limit: int,
        sampler: Sampler,
        stream: TextStream,
        ends: Sequence[int],
        logprobs: int | None,
    ) -> Iterator[Token]:
        """Yield up to `limit` tokens that follow ids; `ends` are those that end a text."""
        history = self._sequences.current.tokens + ids
        self._sequences.current.pending = ids
        for count in range(1, limit + 1):
            phase = PREFILL if count == 1 else DECODE
            token = self._runner.next_token(
                sampler, history, phase, logprobs, lambda: self._interrupted
            )
            if token is None:
                return
            history.append(token.id)
            text = "" if token.id in ends else stream.push(token.id)
            reasons = (
                (End.EOS, token.id in ends),
                (End.STOP, stream.stopped),
                (End.LENGTH, count == limit),
                (End.INTERRUPT, self._interrupted),
            )
            end = next((end for end, holds in reasons if holds), None)
            yield replace(token, text=text + stream.flush() if end else text, end=end)
            if end:
                return

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the ids of a prompt. At the beginning of a sequence a text may get a bos."""
        pending = self._sequences.current.pending
        if not isinstance(prompt, str):
            ids = self._sequences.check(prompt)
        elif self.tokenizer is None:
            raise ConfigError(f"the prompt is text, but {self.model_path} has no tokenizer")
        else:
            begins = self.position == 0 and not pending
            ids = self._sequences.check(self.tokenizer.prompt_ids(prompt, begins))
        if not ids and not pending:
            raise ConfigError("the prompt is empty and there is no token to begin with")
        return ids
