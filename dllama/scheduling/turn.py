"""What a pass does for one text: which rows it evaluates, scores and draws from."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field, replace

from dllama.errors import ModelError
from dllama.runtime.sequence import Part, Sequence
from dllama.runtime.stats import DECODE, MIXED, PREFILL
from dllama.sampling.lockstep import Asking, Row, together
from dllama.sampling.log_probabilities import given_log_probabilities, log_probabilities
from dllama.scheduling.generation import Generation
from dllama.text.stream import Token


@dataclass
class Turn:
    """What a pass does for a text.

    Attributes:
        text: the text.
        rows: how many pending ids are evaluated.
        drafted: ids that may follow all pending ones.
        given: tokens of the prompt, with log-probabilities.
        drawn: tokens that were sampled.
        certain: tokens that can only follow these.
        error: why none could be sampled.
    """

    text: Generation
    rows: int
    drafted: list[int] = field(default_factory=list)
    given: list[Token] = field(default_factory=list)
    drawn: list[Token] = field(default_factory=list)
    certain: list[Token] = field(default_factory=list)
    error: ModelError | None = None

    @property
    def sequence(self) -> Sequence:
        """Where the text is evaluated."""
        assert self.text.sequence is not None
        return self.text.sequence

    @property
    def wanted(self) -> range:
        """Rows whose logits are wanted: those that score, and then those that draw."""
        scoring, drawing = self.scoring, self.drawing
        return range(scoring.start, drawing.stop) if scoring and drawing else scoring or drawing

    @property
    def scoring(self) -> range:
        """Rows before ids of the prompt that are to have log-probabilities."""
        text, position = self.text, self.sequence.position
        if not text.unscored:
            return range(0)
        first = max(0, text.scored - 1 - position)
        return range(first, min(self.rows, text.prompt - 1 - position))

    @property
    def drawing(self) -> range:
        """Rows that draw tokens: the last pending id, and what is drafted after it."""
        last = self.rows == len(self.sequence.pending) and self.text.left > 0
        return range(self.rows - 1, self.rows + len(self.drafted)) if last else range(0)

    @property
    def accepted(self) -> int:
        """How many drafted ids turned out right, so that another token was drawn after them."""
        return max(0, len(self.drawn) - 1)

    def part(self) -> Part:
        """Return the rows of the text."""
        ids = self.sequence.pending[: self.rows] + self.drafted
        end = self.sequence.position + len(ids)
        return Part(self.sequence, ids, self.wanted, max(0, end - self.text.certain))


def sampled(turn: Turn, rows: Ids[Row]) -> Asking[None]:
    """Score the prompt and draw tokens with the wanted rows of a text, or note why that fails."""
    scored = len(turn.scoring)
    yield from together([_score(turn, rows[:scored]), _draw(turn, rows[scored:])])


def _score(turn: Turn, rows: Ids[Row]) -> Asking[None]:
    """Score ids of the prompt, or note why that fails."""
    text, first = turn.text, turn.text.scored
    ids = text.ids[first : first + len(rows)]
    try:
        found = yield from given_log_probabilities(rows, ids, text.prompt_logprobs or 0)
    except ModelError as error:
        turn.error = error
        return
    pairs = zip(ids, found, strict=True)
    turn.given = [Token(token, "", logprob=one.token, top=one.best) for token, one in pairs]


def _draw(turn: Turn, rows: Ids[Row]) -> Asking[None]:
    """Draw tokens, or note why that fails."""
    text = turn.text
    if not rows:
        return
    number = text.first + len(text.ids) - text.prompt
    try:
        masks = text.masks(turn.drafted)
        drafted = turn.drafted[: len(masks) - 1] if masks else turn.drafted
        ids = yield from text.sampler.sample(
            rows[: len(drafted) + 1], text.ids, number, drafted, text.ends, masks
        )
        certain = text.constrain(ids)
    except ModelError as error:
        turn.error = error
        return
    turn.drawn = [Token(token, "") for token in ids]
    turn.certain = [Token(token, "") for token in certain]
    if text.logprobs is not None:
        asked = [log_probabilities(*one, text.logprobs) for one in zip(rows, ids, strict=False)]
        found = yield from together(asked)
        turn.drawn = [
            replace(token, logprob=one.token, top=one.best)
            for token, one in zip(turn.drawn, found, strict=True)
        ]


def phase_of(turns: list[Turn]) -> str:
    """Return what the pass of these turns is called in statistics."""
    begun = [turn.text.begun for turn in turns]
    return DECODE if all(begun) else MIXED if any(begun) else PREFILL
