"""The engine: a loaded model, its sequences, and text generation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama._kernels import cpu
from dllama.checks import shown
from dllama.cluster.layout import Layout
from dllama.cluster.root import Root
from dllama.cluster.speed.auto_shares import fit
from dllama.draft_model import Drafts, drafts_of, model_drafts
from dllama.drafts import Costs
from dllama.errors import ConfigError
from dllama.model_path import model_name, open_model, tokenizer_of
from dllama.model_runner import ModelRunner
from dllama.options.option import documented
from dllama.progress import Progress
from dllama.run_config import RunConfig
from dllama.runtime.sequences import Sequences
from dllama.sampling.grammar import Grammar
from dllama.scheduling.embedding import Embedding
from dllama.scheduling.generation import Generation
from dllama.scheduling.scheduler import Scheduler
from dllama.scheduling.text_maker import TextMaker, TextOptions
from dllama.text.stream import Token

log = logging.getLogger("dllama.engine")


@documented(options.LLM_OPTIONS)
class LLM:
    """A model and its sequences. One thread at a time may use it; close it.

    Methods work on the current sequence, which is the one that continue_from chose last.
    generate_many and submit generate texts in sequences of their own.

    Args:
    {arguments}

    Attributes:
        name: what to call the model.
        node_names: of all nodes by rank, "" for a node that has none.
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

    _drafting = False  # whether its texts may turn out wrong

    def __init__(
        self,
        model: str | Path | None = options.MODEL.default,
        *,
        tokenizer: str | Path | None = options.TOKENIZER.default,
        requantise: bool = options.REQUANTISE.default,
        nodes: int | str = options.NODES.default,
        workers: Sequence[str] = (),
        discover: bool = options.DISCOVER.default,
        transport: str | None = options.TRANSPORT.default,
        threads: int | Sequence[int | None] | None = options.THREADS.default,
        shares: Sequence[float] | str | None = options.SHARES.default,
        buffer: str | None = options.BUFFER.default,
        all_reduce: str = options.ALL_REDUCE.default,
        timeout: float = options.TIMEOUT.default,
        secret_file: str | Path | None = options.SECRET_FILE.default,
        plain: bool = options.PLAIN.default,
        max_seq_len: int | None = options.MAX_SEQ_LEN.default,
        contexts: int | None = options.CONTEXTS.default,
        parallel: int = options.PARALLEL.default,
        kv_cache: str = options.KV_CACHE.default,
        batch_size: int | None = options.BATCH_SIZE.default,
        draft: str | Path = options.DRAFT.default,
        draft_tokens: int = options.DRAFT_TOKENS.default,
        trace: bool = options.KEEP_TRACE.default,
        progress: bool | Progress = options.PROGRESS.default,
    ) -> None:
        layout = Layout.of(nodes, workers, transport, threads, secret_file, discover, plain)
        most = options.DRAFT_TOKENS.argument(draft_tokens)
        with open_model(model, options.REQUANTISE.require(requantise)) as stored:
            self.model_path, self.spec = stored.path, stored.spec
            self.name = model_name(self.model_path)
            layout, self._config = fit(stored, layout, shares, RunConfig.of(
                self.spec, layout.world_size, shares=shares, buffer=buffer, all_reduce=all_reduce,
                timeout=timeout, max_seq_len=max_seq_len, contexts=contexts, parallel=parallel,
                kv_cache=kv_cache, batch_size=batch_size,
                drafted=most if self._drafting or str(draft) != "none" else 0,
                halves=bool(layout.addresses),
            ))  # fmt: skip
            self.nodes, self.workers = layout.world_size, layout.addresses  # who takes part
            self.threads = layout.threads[0]
            self.transport: str | None = layout.transport.name if layout.transport else None
            log.info("kernels for %s, %d threads", cpu.isa(), self.threads)
            layout.check_sums(self._config.all_reduce)
            self.buffer, self.seq_len = self._config.buffer, self._config.seq_len
            self._sequences = Sequences.of(self.spec, self._config)
            self.tokenizer = tokenizer_of(stored, tokenizer)
            root = Root(stored, self._config, layout, Progress.of(progress))
        self.node_names = root.names()
        self._runner = ModelRunner(
            root, self._sequences, self._config, model=self.model_path, trace=trace
        )
        costs = Costs()
        self._scheduler = Scheduler(self._runner, self._sequences, self._config, costs, most)
        try:
            self._drafts = self._open_drafts(draft, most, costs)
        except BaseException:
            self._runner.close()
            raise
        self._texts = TextMaker(self._sequences, self.tokenizer, self.model_path, self._drafts)
        self._text: Generation | None = None  # the last one of the current sequence
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
        self._drafts.close()

    def reset(self) -> None:
        """End all texts; forget all sequences, the statistics and the timelines."""
        self._scheduler.clear()
        self._text = None
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
        """For how many sequences of full length there is room."""
        return self._config.contexts

    @property
    def parallel(self) -> int:
        """How many texts a pass works on."""
        return self._config.parallel

    def rewind(self, position: int) -> None:
        """Keep the beginning of the current sequence and forget the rest.

        What follows has the same bits as if the rest had never been there.

        Args:
            position: how many evaluated ids to keep; those without a window are pending again.

        Raises:
            ConfigError: fewer are evaluated.
        """
        self._end_current()
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
        kept = self._sequences.continue_from(tokens)
        self._text = None
        return kept

    def interrupt(self) -> None:
        """Make all texts end after the next pass, with the tokens that it brings.

        Call it from another thread or a signal handler. The rest of a prompt remains pending.
        """
        self._scheduler.interrupt()
        if self._text is not None:
            self._text.interrupt()

    def ping(self) -> None:
        """Make sure that all workers are there. Call it while nothing is generated.

        Raises:
            TransportError, ProtocolError: one is gone; the model cannot go on.
        """
        self._runner.ping()

    def memory(self, rank: int = 0) -> dict[str, int]:
        """Return the bytes of weights, kv_cache (of all sequences) and buffers of a node."""
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
        given, current = self._sequences.check(tokens), self._sequences.current
        self._sequences.require(current.position, len(current.pending) + len(given))
        self._end_current()
        return self._runner.logits(current, given)

    @documented(options.SAMPLING_OPTIONS)
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
        frequency_penalty: float = options.FREQUENCY_PENALTY.default,
        presence_penalty: float = options.PRESENCE_PENALTY.default,
        min_tokens: int = options.MIN_TOKENS.default,
        seed: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        stop: str | Sequence[str] | None = None,
        stop_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        schema: dict[str, Any] | str | None = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        grammar: str | Grammar | None = None,
        special: Sequence[int] = (),
    ) -> Iterator[Token]:
        """Extend the current sequence by a prompt, then yield tokens as they are generated.

        Arguments are checked when this is called, not when the first token is asked for.

        Args:
            prompt: text, or token ids; empty to go on from what is pending.
            max_tokens: most to generate; None: until the context is full.
        {arguments}
            logit_bias: what to add to the logits of token ids, each from -100 to 100.
            stop, stop_ids: strings before which the text ends; ids with which it ends.
            ignore_eos: do not end with an end-of-sequence id.
            logprobs: give tokens their log-probability, and this many alternatives; None: neither.
            prompt_logprobs: first yield the sequence and prompt in the same way, evaluated again.
            schema: a JSON schema, as a dict or JSON; the text is JSON that fits it.
            regex, choice: all of the text matches this; it is one of these.
            grammar: in Lark's notation or GBNF. Only one of the four can be given (extra grammar).
            special: ids of special tokens that add their names to the text.

        Yields:
            Tokens; the last one says why the text ends, unless it was interrupted in the prompt.

        Raises:
            ConfigError: an argument is wrong; the message names it.
            ContextError: prompt and max_tokens do not fit.
            GrammarError: the grammar has become too complex to go on with.
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        settings = TextOptions(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
            repetition_penalty=repetition_penalty, frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty, min_tokens=min_tokens, seed=seed,
            logit_bias=logit_bias, stop=stop, stop_ids=stop_ids, ignore_eos=ignore_eos,
            logprobs=logprobs, prompt_logprobs=prompt_logprobs, schema=schema, regex=regex,
            choice=choice, grammar=grammar, special=special,
        )  # fmt: skip
        current = self._sequences.current
        self._text, new = self._texts.extending(current, prompt, max_tokens, settings)
        return self._scheduler.run(self._text, current, new)

    def generate_many(
        self,
        prompts: Iterable[str | Sequence[int]],
        max_tokens: int | None = None,
        **settings: Any,
    ) -> Iterator[tuple[int, Token]]:
        """Generate several texts at once, `parallel` of them in a pass.

        Each has the tokens that it has alone, and the current sequence stays. It checks arguments.

        Args:
            prompts: texts or token ids, none of them empty.
            max_tokens: most to generate for each; None: until the context is full.
            **settings: as for generate, the same for all.

        Yields:
            The number of the prompt, from 0, and its next token, as they come.

        Raises:
            ConfigError, ContextError: see generate.
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        texts = [self._texts.alone(prompt, max_tokens, settings) for prompt in prompts]
        return self._scheduler.run_all(texts)

    def submit(
        self, prompt: str | Sequence[int], max_tokens: int | None = None, **settings: Any
    ) -> Generation:
        """Begin a text in a sequence of its own; step works on it. See generate_many for arguments.

        Returns:
            The text. Call its `take` after each step; `cancel` ends it.

        Raises:
            ConfigError, ContextError: see generate.
        """
        text = self._texts.alone(prompt, max_tokens, settings)
        self._scheduler.add(text)
        return text

    def step(self) -> None:
        """Run a pass for the texts whose tokens were all taken; there may be nothing to do.

        Raises:
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        self._scheduler.step()

    def embed(
        self, texts: Iterable[str | Sequence[int]], pooling: str | None = None
    ) -> NDArray[np.float32]:
        """Return a vector for each text, of `parallel` texts in a pass. See generate for errors.

        Args:
            texts: a list of texts, or of lists of token ids, none of them empty.
            pooling: "mean" takes the mean of the states of all tokens after the final norm, "last"
                that of the last one; None: what the model's folder says, or else the mean.

        Returns:
            float32 (texts, dim), each of length 1.
        """
        if isinstance(texts, str):
            raise ConfigError(f"texts is {shown(texts)}, expected a list of texts")
        made = [Embedding.of(self._texts, self._sequences, text, pooling) for text in texts]
        list(self._scheduler.run_all(made))  # they yield no tokens
        return np.array([text.vector for text in made], np.float32).reshape(-1, self.spec.dim)

    def submit_embedding(self, text: str | Sequence[int], pooling: str | None) -> Embedding:
        """Begin to read a text; step works on it. It has its vector when it is done. See embed."""
        made = Embedding.of(self._texts, self._sequences, text, pooling)
        self._scheduler.add(made)
        return made

    def _open_drafts(self, draft: str | Path, most: int, costs: Costs) -> Drafts:
        """Return what proposes tokens; a small model is opened on this machine alone."""
        if drafts := drafts_of(draft, costs):
            return drafts
        from dllama.small_llm import SmallLLM  # which is an LLM itself

        small = SmallLLM(draft, threads=self.threads, contexts=self.parallel, draft_tokens=most)
        return model_drafts(small, self.model_path, self.tokenizer, costs)

    def _end_current(self) -> None:
        """End the text that is generated in the current sequence."""
        if self._text is not None:
            self._scheduler.remove(self._text)
            self._text = None
