"""How to generate a text, as it is asked for, and the text that is made of that."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllama import options
from dllama.draft_model import Drafts
from dllama.errors import ConfigError
from dllama.runtime.sequence import Sequence
from dllama.runtime.sequences import Sequences
from dllama.sampling.grammar import Constraint, Grammar, Grammars, GrammarText
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.scheduling.generation import Generation
from dllama.text.stream import TextStream, stop_strings
from dllama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextOptions(SamplerConfig):
    """How to generate a text; arguments of LLM.generate.

    Attributes:
        stop: strings before which the text ends.
        stop_ids: ids with which it ends.
        ignore_eos: whether it goes on after an end-of-sequence id.
        logprobs: how many alternatives tokens come with; None for no log-probabilities.
        prompt_logprobs: the same for those of the prompt; None if they do not come at all.
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
    prompt_logprobs: int | None = None
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
        options.PROMPT_LOGPROBS.argument(self.prompt_logprobs)
        object.__setattr__(self, "stops", stop_strings(self.stop))
        source = GrammarText.of(
            schema=self.schema, regex=self.regex, choice=self.choice, grammar=self.grammar
        )
        compiled = isinstance(self.grammar, Grammar)
        object.__setattr__(self, "source", self.grammar if compiled else source)


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
        self.model = model
        self._drafts = drafts

    def ids(self, prompt: str | Ids[int], known: Ids[int] = ()) -> list[int]:
        """Return the ids of a prompt that follows known ones. At the beginning it may get a bos.

        Raises:
            ConfigError: an id is out of range, there is no tokenizer, or there are no ids at all.
            ContextError: the prompt is so long that encoding it would be a waste.
        """
        if not isinstance(prompt, str):
            ids = self._sequences.check(prompt)
        elif self._tokenizer is None:
            raise ConfigError(f"the prompt is text, but {self.model} has no tokenizer")
        else:
            most = self._sequences.seq_len
            ids = self._sequences.check(self._tokenizer.prompt_ids(prompt, not known, most))
        if not ids and not known:
            raise ConfigError("the prompt is empty and there is no token to begin with")
        return ids

    def extending(
        self,
        sequence: Sequence,
        prompt: str | Ids[int],
        max_tokens: int | None,
        options: TextOptions,
    ) -> tuple[Generation, list[int]]:
        """Return a text that goes on with a sequence and a prompt, and the ids of this.

        Other arguments and errors are those of `make`.
        """
        known = sequence.tokens + sequence.pending
        new = self.ids(prompt, known)
        made = self.make(known + new, sequence.position, max_tokens, options)
        if not (new or sequence.pending or made.unscored or made.over):
            raise ConfigError("the prompt is empty and no token is pending")
        return made, new

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
            raise ConfigError(f"stop is {options.stop!r}, but {self.model} has no tokenizer")
        limit = self._sequences.limit(evaluated, len(ids) - evaluated, max_tokens)
        eos = () if options.ignore_eos or self._tokenizer is None else self._tokenizer.eos_ids
        ends = (*eos, *self._sequences.check(options.stop_ids))
        self._sequences.check([*(options.logit_bias or {})])
        sampler, constraint = Sampler(options), self._constraint(options, ends)
        return Generation(
            self._sequences,
            ids,
            limit,
            sampler,
            TextStream(self._tokenizer, options.stops, options.special, options.min_tokens),
            ends,
            logprobs=options.logprobs,
            drafter=self._drafts.drafter(sampler, len(ids), constraint),
            constraint=constraint,
            prompt_logprobs=options.prompt_logprobs,
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
        return Generation(
            self._sequences,
            ids,
            count,
            sampler,
            TextStream(None, ()),
            constraint.ends if constraint else (),
            constraint=constraint,
            first=first,
            draft=True,
        )

    def _constraint(self, options: TextOptions, ends: Ids[int]) -> Constraint | None:
        """Return the constraint of a new text; ConfigError if its grammar cannot be used."""
        made = options.source
        if isinstance(made, GrammarText):
            made = self._grammars.compile(made)
        return made.constraint(ends) if made else None
