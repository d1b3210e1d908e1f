"""Which texts a pass works on, and how many rows each has.

Every pass may begin and end texts. A text that is being generated has one row, and rows for drafted
ids. Prompts have as many as are left, but only a few while others wait for their next token. A text
has the bits that it has alone, so nothing here changes what is generated.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Ids

from dllama.cluster.protocol import Want
from dllama.drafts import Costs
from dllama.model_runner import ModelRunner
from dllama.run_config import RunConfig
from dllama.runtime.prefix import common_prefix
from dllama.runtime.sequence import Sequence
from dllama.runtime.sequences import Sequences
from dllama.runtime.stats import DECODE, PREFILL
from dllama.sampling.lockstep import together
from dllama.scheduling.embedding import Embedding
from dllama.scheduling.generation import Generation
from dllama.scheduling.scored_prompts import ScoredPrompts
from dllama.scheduling.turn import Turn, phase_of, sampled
from dllama.text.stream import Token

# Most prompt ids of a pass that also generates tokens, which all have to wait for it.
PROMPT_ROWS = 32
# Most prompt ids of a pass for several prompts, so that the first one need not wait for all.
SEVERAL_ROWS = 64
# A text waits for another one that is reading the same beginning, if it is so much longer than what
# is known already.
WORTH_WAITING = 16


class Scheduler:
    """Works on texts, pass by pass.

    Args:
        runner: evaluates passes.
        sequences: of the same model.
        config: what all nodes agree on.
        costs: of passes, in which this takes in what it measures.
        draft_tokens: most ids to draft for a text in a pass.
    """

    def __init__(
        self,
        runner: ModelRunner,
        sequences: Sequences,
        config: RunConfig,
        costs: Costs,
        draft_tokens: int,
    ) -> None:
        self._runner = runner
        self._sequences = sequences
        self._config = config
        self._costs = costs
        self._draft_tokens = draft_tokens
        self._waiting: list[Generation] = []
        self._texts: list[Generation] = []  # that have a sequence, oldest first
        self._scored = ScoredPrompts()

    def add(self, text: Generation) -> None:
        """Begin a text in a sequence of its own when it is its turn."""
        self._waiting.append(text)

    def remove(self, text: Generation) -> None:
        """End a text. Its sequence keeps what was taken."""
        text.cancel()
        self._drop()

    def clear(self) -> None:
        """End all texts, and forget what is known of prompts."""
        for text in [*self._texts, *self._waiting]:
            text.cancel()
        self._drop()
        self._scored.clear()

    def interrupt(self) -> None:
        """End all texts with the tokens of the next pass, from any thread."""
        for text in [*self._texts, *self._waiting]:
            text.interrupt()

    def run(self, text: Generation, sequence: Sequence, prompt: Ids[int]) -> Iterator[Token]:
        """Yield the tokens of a text that extends a sequence by a prompt.

        It takes the place of any other text there.
        """
        for other in self._texts:
            if other.sequence is sequence:
                other.cancel()
        self._drop()
        if text.unscored:
            self._sequences.give_way(sequence)
        self._begin(text, sequence)
        self._sequences.extend(sequence, prompt)
        try:
            while (token := text.take()) is not None or not text.done:
                if token is None:
                    self.step()
                else:
                    yield token
        finally:
            self.remove(text)

    def run_all(self, texts: Ids[Generation]) -> Iterator[tuple[int, Token]]:
        """Yield the tokens of texts with the numbers of these, until all have ended."""
        waiting, running = deque(enumerate(texts)), list[tuple[int, Generation]]()
        try:
            while waiting or running:
                while waiting and len(running) < self._config.parallel:
                    running.append(waiting.popleft())
                    self.add(running[-1][1])
                self.step()
                for number, text in running:
                    while (token := text.take()) is not None:
                        yield number, token
                running = [(number, text) for number, text in running if not text.done]
        finally:
            for _, text in running:
                self.remove(text)
            self._drop()

    def step(self) -> None:
        """Run a pass for the texts whose tokens were all taken; there may be nothing to do.

        Raises:
            TransportError, ProtocolError: a worker failed; the model cannot go on.
        """
        self._drop()
        self._admit()
        turns = self._plan()
        if not turns:
            return
        wants = any(turn.wanted for turn in turns)
        phase, begin = phase_of(turns), time.perf_counter()
        self._runner.run([turn.part() for turn in turns], Want.TOP if wants else Want.NOTHING)
        if wants:
            self._sample(turns)
        self._embed(turns)
        seconds = time.perf_counter() - begin
        for turn in turns:
            self._commit(turn)
        rows = sum(turn.rows for turn in turns)
        drawn = sum(len(turn.drawn) + len(turn.certain) for turn in turns)
        drafted = sum(len(turn.drafted) for turn in turns)
        accepted = sum(turn.accepted for turn in turns)
        self._runner.finish(phase, rows if phase == PREFILL else drawn, drafted, accepted)
        if phase == DECODE and any(turn.text.drafter for turn in turns):
            self._costs.observe(rows + drafted, seconds)

    def _drop(self) -> None:
        """Let go of texts that have ended."""
        for text in self._texts:
            if text.done and text.sequence:
                text.sequence.busy = False
                if not text.kept:
                    self._sequences.forget(text.sequence)
        self._texts = [text for text in self._texts if not text.done]
        self._waiting = [text for text in self._waiting if not text.done]

    def _begin(self, text: Generation, sequence: Sequence) -> None:
        sequence.busy = True
        text.begin(sequence)
        self._texts.append(text)

    def _admit(self) -> None:
        """Give sequences to texts that wait, as many as a pass has room for."""
        for text in list(self._waiting):
            if sum(one.waits for one in self._texts) >= self._config.parallel:
                return
            if not self._comes(text):
                self._waiting.remove(text)
                if text.unscored:
                    text.score(self._scores(text)[text.scored :])
                self._begin(text, self._sequences.open(text.ids, text.shareable))

    def _comes(self, text: Generation) -> bool:
        """Whether another text is just reading what this one begins with, and can share."""
        if text.afresh:
            return False
        score = text.unscored > 0
        known = len(self._scores(text)) if score else self._sequences.known(text.ids)
        return any(
            one.waits
            and one.kept
            and not one.begun
            and (not score or one.unscored)
            and common_prefix(text.ids[:-1], one.ids) >= known + WORTH_WAITING
            for one in self._texts
        )

    def _scores(self, text: Generation) -> list[Token]:
        """Return the first tokens of a prompt whose log-probabilities are known."""
        return self._scored.known(text.ids[: text.prompt], text.prompt_logprobs or 0)

    def _plan(self) -> list[Turn]:
        """Return what the next pass does, with room for it."""
        texts = [text for text in self._texts if text.waits][: self._config.parallel]
        turns = [Turn(text, rows) for text, rows in zip(texts, self._rows(texts), strict=True)]
        others = [text.sequence for text in self._texts if text not in texts]
        planned: list[Turn] = []
        scores = self._config.logits - len(turns)  # besides the row of each text that draws
        for at, turn in enumerate(turns):
            later = [one.sequence for one in reversed(turns[at + 1 :])]
            spare = [one for one in (*others, *later) if one]
            turn.rows = min(turn.rows, len(turn.sequence.pending))
            if turn.text.unscored:
                turn.rows = min(turn.rows, 1 + scores)
                scores -= max(0, turn.rows - 1)
            if turn.rows == 0 or (at and not self._may_begin(turn.sequence)):
                continue
            if self._sequences.reserve(turn.sequence, turn.rows, spare):
                planned.append(turn)
        self._draft(planned)
        return planned

    def _may_begin(self, sequence: Sequence) -> bool:
        """Whether a sequence is evaluated already, or all of it has room beside the others."""
        return sequence.position > 0 or self._sequences.fits(sequence)

    def _rows(self, texts: list[Generation]) -> list[int]:
        """Return how many pending ids of each text a pass evaluates.

        Half of what is left for prompts goes to the oldest one, the rest to the shortest.
        """
        pending = [len(text.sequence.pending) for text in texts if text.sequence]
        reading = [at for at, count in enumerate(pending) if count > 1]
        others = len(texts) - len(reading)
        left = self._config.batch - others
        if len(texts) > 1:
            left = min(left, PROMPT_ROWS if others else SEVERAL_ROWS)
        rows = [0 if count > 1 else 1 for count in pending]
        for at in reading[:1]:  # the oldest is never left behind
            rows[at] = min(pending[at], (left + 1) // 2)
            left -= rows[at]
        for at in sorted(reading, key=pending.__getitem__):
            more = min(pending[at] - rows[at], left)
            rows[at], left = rows[at] + more, left - more
        return rows

    def _draft(self, turns: list[Turn]) -> None:
        """Propose ids for texts of which a single id is pending, as long as that pays."""
        rows = sum(turn.rows for turn in turns)
        wanted = sum(len(turn.wanted) for turn in turns)
        room = min(self._config.batch - rows, self._config.logits - wanted)
        for turn in turns:
            drafter, sequence = turn.text.drafter, turn.sequence
            if drafter is None or len(sequence.pending) > 1:
                continue
            most = min(self._draft_tokens, turn.text.left - 1, room)
            most = min(most, self._sequences.before_switch(sequence) - 1)
            drafted = drafter.propose(turn.text.ids, most) if most > 0 else []
            if turn.text.constraint:
                del drafted[turn.text.constraint.fitting(drafted) :]
            del drafted[self._costs.worth(drafter.chances, rows, len(drafted)) :]
            if drafted and self._sequences.reserve(sequence, 1 + len(drafted)):
                turn.drafted = drafted
                room -= len(drafted)
                rows += len(drafted)

    def _sample(self, turns: list[Turn]) -> None:
        """Draw the tokens of all wanted rows."""
        rows = iter(self._runner.rows())
        draws = [sampled(turn, [next(rows) for _ in turn.wanted]) for turn in turns]
        self._runner.drive(together(draws))

    def _embed(self, turns: list[Turn]) -> None:
        """Hand texts that are embedded the states of their rows."""
        first = 0
        for turn in turns:
            if isinstance(turn.text, Embedding):
                wanted = turn.text.states(turn.rows)
                rows = range(first + wanted.start, first + wanted.stop)
                turn.text.read(self._runner.states(rows))
            first += turn.rows + len(turn.drafted)

    def _commit(self, turn: Turn) -> None:
        """Note what a pass has evaluated and drawn."""
        text, sequence = turn.text, turn.sequence
        if turn.error:
            self._sequences.forget(sequence)
            text.fail(turn.error)
            return
        self._sequences.evaluated(sequence, turn.rows, turn.accepted)
        if turn.given:
            text.score(turn.given)
            if not text.unscored:
                self._scored.add(text.scores, text.prompt_logprobs or 0)
        text.drew(turn.drawn + turn.certain, len(turn.drafted), turn.accepted)
