"""A text while it is generated: how what was drawn turns into tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import replace

from dllama.drafts import Drafter
from dllama.errors import DllamaError
from dllama.runtime.sequence import Sequence
from dllama.runtime.sequences import Sequences
from dllama.sampling.grammar import Constraint, Mask
from dllama.sampling.sampler import Sampler
from dllama.text.stream import End, TextStream, Token


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
        prompt_logprobs: how many alternatives ids of the prompt come with; None if they do not.

    Attributes:
        ids: of the prompt and all that was drawn.
        ends, sampler, logprobs, drafter, constraint, first, prompt_logprobs: as given.
        sequence: where it is evaluated; None until it is its turn.
        prompt: how many ids the prompt has.
        scored: ids of the prompt whose log-probabilities are known or not wanted.
        scores: the known ones, if they are wanted.
        cached: prompt ids that need not be evaluated, since a sequence has them.
        count: how many tokens were taken.
        drafted: how many ids were proposed and checked.
        accepted: how many of these turned out right.
        end: why the text ended; None if it goes on.
        afresh: whether all ids are evaluated, those that another sequence has, too.
        kept: whether its sequence is kept when it has ended, for others to go on from.
    """

    afresh, kept = False, True

    def __init__(
        self,
        sequences: Sequences,
        ids: list[int],
        limit: int,
        sampler: Sampler,
        stream: TextStream,
        ends: Ids[int],
        *,
        logprobs: int | None = None,
        drafter: Drafter | None = None,
        constraint: Constraint | None = None,
        first: int = 0,
        draft: bool = False,
        prompt_logprobs: int | None = None,
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
        self.prompt_logprobs = prompt_logprobs
        self.scored = self.prompt if prompt_logprobs is None else 0
        self.scores: list[Token] = []
        self._given: deque[Token] = deque()  # of the prompt, and not taken yet
        self._drawn: deque[Token] = deque()
        self._cancelled = False
        self._interrupted = False
        self._stopped = False
        self._complete = False
        self._error: DllamaError | None = None
        if self.unscored:
            self.score([Token(ids[0], "")])

    @property
    def over(self) -> bool:
        """Whether nothing more is drawn. There may be tokens to take."""
        ended = self.end is not None or self._cancelled or self._error is not None
        finished = self.left == 0 and not self.unscored
        return ended or self._stopped or self._complete or finished

    @property
    def done(self) -> bool:
        """Whether no token follows those that were taken."""
        return self._cancelled or (self.over and not self._drawn and not self._given)

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
    def unscored(self) -> int:
        """How many ids of the prompt have yet to get their log-probabilities."""
        return self.prompt - self.scored

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

    @property
    def shareable(self) -> int:
        """How many of its first ids need not be evaluated if another sequence has them."""
        if self.afresh:
            return 0
        return self.scored - 1 if self.unscored else len(self.ids)

    def score(self, tokens: Ids[Token]) -> None:
        """Add the next tokens of the prompt, with their log-probabilities."""
        given = [replace(token, given=True) for token in tokens]
        self.scored += len(given)
        self.scores += given
        self._given += given

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
        if self._given:
            return self._take_given()
        if not self._drawn:
            if self._error is not None:
                raise self._error
            return None
        assert self.sequence
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

    def _take_given(self) -> Token:
        """Return the next token of the prompt, which may be the last of all."""
        token = self._given.popleft()
        last = self._limit == 0 and not self._given and not self.unscored
        return replace(token, end=End.LENGTH if last else None)
