"""A text while it is generated: its options, and how what was drawn turns into tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dllama import options
from dllama.draft_model import Drafts
from dllama.drafts import Drafter
from dllama.errors import ConfigError, DllamaError
from dllama.runtime.sequence import Sequence
from dllama.runtime.sequences import Sequences
from dllama.sampling.grammar import Constraint, Grammar, Grammars, GrammarText, Mask
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.text.stream import End, TextStream, Token, stop_strings
from dllama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextOptions(SamplerConfig):
    """How to generate a text; arguments of LLM.generate.

    Attributes:
        stop: strings before which the text ends.
        stop_ids: ids with which it ends.
        ignore_eos: whether it goes on after an end-of-sequence id.
        logprobs: how many alternatives tokens come with; None for no log-probabilities.
        schema: a JSON schema that the text is to fit, as a dict or as JSON.
        regex: a regular expression that it is to match.
        choice: texts of which it is to be one.
        grammar: a grammar that it is to follow, as text or compiled (Grammars.compile).
        special: ids of special tokens that add their names to the text.
        stops: the strings of `stop`.
        source: the one of schema, regex, choice and grammar that is given, or None.

    Raises:
        ConfigError: a value is out of range.
    """

    stop: str | Ids[str] | None = None
    stop_ids: Ids[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    schema: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Ids[str] | None = None
    grammar: str | Grammar | None = None
    special: Ids[int] = ()
    stops: tuple[str, ...] = field(init=False)
    source: GrammarText | Grammar | None = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        options.LOGPROBS.argument(self.logprobs)
        object.__setattr__(self, "stops", stop_strings(self.stop))
        source = GrammarText.of(
            schema=self.schema, regex=self.regex, choice=self.choice, grammar=self.grammar
        )
        compiled = isinstance(self.grammar, Grammar)
        object.__setattr__(self, "source", self.grammar if compiled else source)


class Generation:
    """A text that is generated. LLM.submit makes one, and LLM.step works on it.

    Args:
        sequences: all sequences of the model.
        ids: of the prompt, those that the sequence already holds included.
        limit: most tokens to generate.
        sampler: draws them.
        stream: turns them into text.
        ends: ids that end the text.
        logprobs: how many alternatives tokens come with; None for no log-probabilities.
        drafter: proposes tokens; None for no drafts.
        constraint: says which tokens may come; None for all.
        first: how many tokens were drawn before, so that random numbers go on after theirs.
        draft: whether what is drawn may turn out wrong.

    Attributes:
        ids: of the prompt and all that was drawn.
        ends: ids that end the text.
        sequence: where it is evaluated; None until it is its turn.
        prompt: how many ids the prompt has.
        cached: prompt ids that need not be evaluated, since a sequence has them.
        count: how many tokens were taken.
        drafted: how many ids were proposed and checked.
        accepted: how many of these turned out right.
        end: why the text ended; None if it goes on.
    """

    def __init__(
        self,
        sequences: Sequences,
        ids: list[int],
        limit: int,
        sampler: Sampler,
        stream: TextStream,
        ends: Ids[int],
        logprobs: int | None = None,
        drafter: Drafter | None = None,
        constraint: Constraint | None = None,
        first: int = 0,
        draft: bool = False,
    ) -> None:
        self.ids = ids
        self.ends = ends
        self.sequence: Sequence | None = None
        self.cached = 0
        self.count = 0
        self.end: End | None = None
        self.sampler = sampler
        self.logprobs = logprobs
        self.drafter = drafter
        self.constraint = constraint
        self.first = first
        self.drafted = self.accepted = 0
        self._sequences = sequences
        self.prompt = len(ids)
        self._limit = limit
        self._draft = draft
        self._stream = stream
        self._drawn: deque[Token] = deque()
        self._cancelled = False
        self._interrupted = False
        self._stopped = False
        self._complete = False
        self._error: DllamaError | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more is drawn. There may be tokens to take."""
        ended = self.end is not None or self._cancelled or self._error is not None
        return ended or self._stopped or self._complete or self.left == 0

    @property
    def done(self) -> bool:
        """Whether no token follows those that were taken."""
        return self._cancelled or (self.over and not self._drawn)

    @property
    def cut(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def waits(self) -> bool:
        """Whether it needs a pass: all that was drawn is taken, and it is not over."""
        return not self._drawn and not self.over

    @property
    def certain(self) -> int:
        """How many of its ids cannot turn out wrong."""
        return self.prompt if self._draft else len(self.ids)

    @property
    def left(self) -> int:
        """How many tokens may still be drawn."""
        return self._limit - (len(self.ids) - self.prompt)

    @property
    def begun(self) -> bool:
        """Whether a token was drawn."""
        return len(self.ids) > self.prompt

    def cancel(self) -> None:
        """End the text after the current pass, from any thread. Nothing more is drawn or taken."""
        self._cancelled = True

    def interrupt(self) -> None:
        """End the text with the token of the next pass, from any thread.

        If that is still busy with the prompt, the text ends without a token, and what is not
        evaluated of the prompt remains pending.
        """
        self._interrupted = True

    def fail(self, error: DllamaError) -> None:
        """End the text by an error, which `take` raises after the tokens that were drawn."""
        self._error = error

    def begin(self, sequence: Sequence) -> None:
        """Take a sequence that has its ids."""
        self.sequence = sequence
        self.cached = sequence.position

    def masks(self, drafted: Ids[int]) -> list[Mask]:
        """Return what may come next, and after each of some ids; [] without a constraint.

        Args:
            drafted: ids that all fit (Constraint.fitting).

        Raises:
            GrammarError: the constraint cannot go on.
        """
        return self.constraint.masks(drafted) if self.constraint else []

    def constrain(self, ids: Ids[int]) -> list[int]:
        """Take in ids that a pass has drawn, before `drew`; GrammarError as for `masks`.

        Returns:
            What can only follow them, so that no pass is needed to draw it; nothing if tokens come
            with log-probabilities.
        """
        if self.constraint is None or not ids:
            return []
        for token in ids:
            self._advance(token)
        certain: list[int] = []
        room = 0 if self.logprobs is not None or ids[-1] in self.ends else self.left - len(ids)
        while len(certain) < room and not self._complete:
            only = self.constraint.certain
            if only is None:
                break
            self._advance(only)
            certain.append(only)
        return certain

    def _advance(self, token: int) -> None:
        assert self.constraint
        if token not in self.ends:
            self.constraint.advance(token)
            self._complete = self.constraint.complete

    def drew(self, tokens: Ids[Token], drafted: int, accepted: int) -> None:
        """Add what a pass has drawn, and what is certain to follow, if anything.

        Args:
            tokens: the first of them were among the drafted ids.
            drafted: how many ids were drafted.
            accepted: how many of these turned out right.
        """
        self.ids += [token.id for token in tokens]
        self._drawn.extend(tokens)
        self._stopped = self._interrupted and not tokens
        if self.drafter is not None and drafted:
            self.drafted += drafted
            self.accepted += accepted
            self.drafter.learn(drafted, accepted)

    def take(self) -> Token | None:
        """Return the next token with its text; None if a pass is needed first, or nothing follows.

        Raises:
            DllamaError: the text ended by an error.
        """
        if self._cancelled:
            return None
        if not self._drawn:
            if self._error is not None:
                raise self._error
            return None
        assert self.sequence is not None
        token = self._drawn.popleft()
        self._sequences.append(self.sequence, token.id)
        self.count += 1
        text = "" if token.id in self.ends else self._stream.push(token.id)
        reasons = (
            (End.EOS, token.id in self.ends),
            (End.STOP, self._stream.found is not None),
            (End.COMPLETE, self._complete and not self._drawn),
            (End.LENGTH, self.count == self._limit),
            (End.INTERRUPT, self._interrupted),
        )
        self.end = next((end for end, holds in reasons if holds), None)
        if self.end:
            text += self._stream.flush()
            self._drawn.clear()
        return replace(token, text=text, end=self.end, stop=self._stream.found)


class TextMaker:
    """Makes texts of a model.

    Args:
        sequences: of the model.
        tokenizer: of the model, or None.
        model: path of the model, for messages.
        drafts: what proposes tokens.
    """

    def __init__(
        self, sequences: Sequences, tokenizer: Tokenizer | None, model: Path, drafts: Drafts
    ) -> None:
        self._grammars = Grammars(tokenizer, model)
        self._sequences = sequences
        self._tokenizer = tokenizer
        self._model = model
        self._drafts = drafts

    def ids(self, prompt: str | Ids[int], known: Ids[int] = ()) -> list[int]:
        """Return the ids of a prompt that follows known ones. At the beginning it may get a bos.

        Raises:
            ConfigError: an id is out of range, there is no tokenizer, or there are no ids at all.
        """
        if not isinstance(prompt, str):
            ids = self._sequences.check(prompt)
        elif self._tokenizer is None:
            raise ConfigError(f"the prompt is text, but {self._model} has no tokenizer")
        else:
            ids = self._sequences.check(self._tokenizer.prompt_ids(prompt, not known))
        if not ids and not known:
            raise ConfigError("the prompt is empty and there is no token to begin with")
        return ids

    def alone(
        self, prompt: str | Ids[int], max_tokens: int | None, settings: dict[str, Any]
    ) -> Generation:
        """Return a text that begins with a prompt; arguments and errors are those of `make`."""
        return self.make(self.ids(prompt), 0, max_tokens, TextOptions(**settings))

    def make(
        self, ids: list[int], evaluated: int, max_tokens: int | None, options: TextOptions
    ) -> Generation:
        """Return a text that begins with these ids.

        Args:
            ids: at least one.
            evaluated: how many of them a sequence has already.
            max_tokens: most to generate; None: until the context is full.
            options: how.

        Raises:
            ConfigError: an option does not suit the model.
            ContextError: ids and max_tokens do not fit.
        """
        if options.stops and self._tokenizer is None:
            raise ConfigError(f"stop is {options.stop!r}, but {self._model} has no tokenizer")
        limit = self._sequences.limit(evaluated, len(ids) - evaluated, max_tokens)
        eos = () if options.ignore_eos or self._tokenizer is None else self._tokenizer.eos_ids
        ends = (*eos, *self._sequences.check(options.stop_ids))
        sampler, constraint = Sampler(options), self._constraint(options, ends)
        return Generation(
            self._sequences,
            ids,
            limit,
            sampler,
            TextStream(self._tokenizer, options.stops, options.special),
            ends,
            options.logprobs,
            self._drafts.drafter(sampler, len(ids), constraint),
            constraint,
        )

    def draft(
        self,
        ids: list[int],
        count: int,
        sampler: Sampler,
        first: int,
        constraint: Constraint | None,
    ) -> Generation:
        """Return what goes on with ids of another model's text; arguments are those of LLM.draft.

        It ends where that text would, if there is a constraint.
        """
        stream, ends = TextStream(None, ()), constraint.ends if constraint else ()
        return Generation(
            self._sequences, ids, count, sampler, stream, ends, None, None, constraint, first, True
        )

    def _constraint(self, options: TextOptions, ends: Ids[int]) -> Constraint | None:
        """Return the constraint of a new text; ConfigError if its grammar cannot be used."""
        made = options.source
        if isinstance(made, GrammarText):
            made = self._grammars.compile(made)
        return made.constraint(ends) if made else None
