"""Sequences: the ids whose keys and values a model keeps, and the KV blocks that hold them.

The root decides for all nodes which blocks a sequence has. Each node's executor fills them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence as Ids

from dllama.checks import integer
from dllama.errors import ConfigError, ContextError
from dllama.model.spec import ModelSpec
from dllama.run_config import RunConfig
from dllama.runtime.batch import Batch, Span
from dllama.runtime.block_pool import BlockPool, pools
from dllama.runtime.held_blocks import held_of
from dllama.runtime.prefix import common_prefix
from dllama.runtime.sequence import SEAM, Part, Sequence


class Sequences:
    """All sequences of a model.

    They share a number of KV blocks in each cache. When these are used up, blocks before the
    windows of sequences are given back. Then the sequence that was not used for the longest time
    loses its end. A sequence that loses tokens while somebody works on it has them pending again,
    so that they are evaluated once more, with the same bits.

    Args:
        vocab_size: ids are below.
        seq_len: most positions of a sequence.
        pools: the KV blocks of each cache.
        switch: RoPE has other frequencies in texts of more tokens; 0 if it has not. A text that
            becomes so long is evaluated again.

    Attributes:
        seq_len: most positions of a sequence.
        current: the sequence that LLM works on.
    """

    def __init__(
        self, vocab_size: int, seq_len: int, pools: Ids[BlockPool], switch: int = 0
    ) -> None:
        self.vocab_size = vocab_size
        self.seq_len = seq_len
        self._pools = pools
        self._switch = switch or sys.maxsize
        self.current = self._empty()
        self._by_use = [self.current]  # last used, last

    @classmethod
    def of(cls, spec: ModelSpec, config: RunConfig) -> Sequences:
        """Return the sequences of a model, none of them known yet."""
        return cls(spec.vocab_size, config.seq_len, pools(spec, config), spec.rope_switch)

    def _empty(self) -> Sequence:
        return Sequence([held_of(pool) for pool in self._pools])

    def continue_from(self, tokens: Ids[int]) -> int:
        """Make these ids the current sequence, with as few of them pending as possible.

        Args:
            tokens: at least one id.

        Returns:
            How many ids are kept. The last one is always pending, since its logits are wanted.

        Raises:
            ConfigError: there are no ids, or one is out of range; nothing changes.
            ContextError: they do not fit; nothing changes.
        """
        ids = self.check(tokens)
        if not ids:
            raise ConfigError("there are no tokens to continue from")
        if len(ids) > self.seq_len:
            raise ContextError(f"{len(ids)} tokens do not fit in a context of {self.seq_len}")
        self.current.pending = []
        self.current = self._open(ids)
        return self.current.position

    def open(self, ids: list[int], most: int | None = None) -> Sequence:
        """Return a sequence of these ids for a text of its own; the current one stays as it is.

        Args:
            ids: at least one; they fit.
            most: how many of them may be those of another sequence; None for all but the last.
        """
        return self._open(ids, self.current, most)

    def _open(
        self, ids: list[int], keep: Sequence | None = None, most: int | None = None
    ) -> Sequence:
        """Return a sequence of these ids that nobody else works on, few of them pending.

        The sequence with the longest common prefix goes on if at most its generated ids differ.
        That is so for a conversation with a new turn, and for one whose last answer is asked for
        again or was changed by the template. Otherwise a new one shares the KV blocks of the common
        prefix.

        Args:
            ids: at least one; they fit.
            keep: a sequence that stays as it is.
            most: as for `open`.
        """
        kept, best = self._longest(ids, most)
        given = min(best.given, best.position)
        if best.busy or best is keep or kept < max(1, given - SEAM, (given + 1) // 2):
            best = self._fork(best, kept)
        self._cut(best, kept)
        best.pending = []
        self.extend(best, ids[kept:])
        self._use(best)
        return best

    def known(self, ids: list[int]) -> int:
        """Return how many ids at the beginning a sequence would keep that is opened now."""
        return self._longest(ids)[0]

    def _longest(self, ids: list[int], most: int | None = None) -> tuple[int, Sequence]:
        """Return the longest prefix that can go on, and whose it is; rather one not busy.

        At least the last id is left out. For `most` see `open`.
        """
        before, lengthened = ids[:-1][:most], len(ids) > self._switch
        shared = [
            (one.resumable(common_prefix(one.tokens, before)), not one.busy, one)
            for one in self._by_use
            if one.lengthened == lengthened or not one.tokens
        ] or [(0, True, self._empty())]
        kept, _, best = max(shared, key=lambda entry: entry[:2])
        return kept, best

    def _fork(self, source: Sequence, kept: int) -> Sequence:
        """Return a new sequence of the first tokens of source, in the same blocks."""
        made = Sequence([held.fork(kept) for held in source.held])
        made.tokens = source.tokens[:kept]
        made.lengthened = source.lengthened
        return made

    def suit(self, sequence: Sequence, more: int = 0) -> None:
        """Choose the frequencies of RoPE for all ids of a sequence.

        If they are others than before, all its tokens are pending again.

        Args:
            sequence: any.
            more: how many ids will follow.
        """
        length = sequence.position + len(sequence.pending) + more
        if sequence.lengthened != (length > self._switch):
            self.give_way(sequence)
            sequence.lengthened = not sequence.lengthened

    def before_switch(self, sequence: Sequence) -> int:
        """Return how many more positions a sequence may have with its frequencies."""
        end = self.seq_len if sequence.lengthened else min(self._switch, self.seq_len)
        return end - sequence.position

    def _use(self, sequence: Sequence) -> None:
        """Note that a sequence is used now, and drop those that hold nothing."""
        others = [one for one in self._by_use if one is not sequence]
        self._by_use = [one for one in others if one.tokens or one.busy or one is self.current]
        self._by_use.append(sequence)

    def rewind(self, position: int) -> None:
        """Keep the first tokens of the current sequence, and nothing that was pending.

        If the window before the position is not there any more, some of them are pending again.

        Args:
            position: how many tokens to keep.

        Raises:
            ConfigError: there are fewer tokens.
        """
        if not 0 <= position <= self.current.position:
            raise ConfigError(f"position is {position}, expected 0 to {self.current.position}")
        self.current.pending = []
        self._go_back(self.current, position)

    def clear(self) -> None:
        """Forget all sequences; nobody works on any."""
        for sequence in self._by_use:
            self._cut(sequence, 0)
        self.current = self._empty()
        self._by_use = [self.current]

    def forget(self, sequence: Sequence) -> None:
        """Forget all tokens of a sequence, pending ones included."""
        self._cut(sequence, 0)
        sequence.pending = []

    def give_way(self, sequence: Sequence) -> None:
        """Give all KV blocks of a sequence back. Its tokens are pending again."""
        sequence.pending[:0] = sequence.tokens
        self._cut(sequence, 0)

    def busy(self, but: Sequence) -> list[Sequence]:
        """Return the other sequences that somebody works on, the last used first."""
        return [one for one in reversed(self._by_use) if one.busy and one is not but]

    def fits(self, sequence: Sequence) -> bool:
        """Return whether all ids of a sequence fit beside those of the others in use."""
        others, length = self.busy(sequence), sequence.position + len(sequence.pending)
        for cache, pool in enumerate(self._pools):
            used = {block for one in others for block in one.held[cache].seen(one.position)}
            if pool.needed(length) > pool.count - len(used):
                return False
        return True

    def reserve(self, sequence: Sequence, count: int, spare: Ids[Sequence] = ()) -> bool:
        """Make room for the next ids of a sequence.

        Args:
            sequence: any.
            count: how many ids; they fit (see require).
            spare: sequences in use that may give way, one after another, if idle ones do not do.

        Returns:
            False if there are too few KV blocks.
        """
        self.recover(sequence)
        givers = iter(spare)
        while (cache := self._short(sequence, count)) is not None:
            if not self._trim(cache) and not self._evict(cache, sequence):
                giver = next(givers, None)
                if giver is None:
                    return False
                self.give_way(giver)
        for held in sequence.held:
            held.reserve(sequence.position, count)
        return True

    def _short(self, sequence: Sequence, count: int) -> int | None:
        """Return a cache with too few free blocks for the next ids of a sequence."""
        for cache, held in enumerate(sequence.held):
            if held.missing(sequence.position, count) > held.pool.free:
                return cache
        return None

    def _trim(self, cache: int) -> bool:
        """Give back a block that is before the window of a sequence; False if there is none.

        Those that others share come last, and before them those to which the next turn may return.
        Sequences that were not used for long come first. In a sequence the last one goes first, so
        that its beginning, which other texts may share, stays.
        """
        pool = self._pools[cache]
        found = [
            (pool.is_shared(held.numbers[place]), one.returns_to(cache, place), age, -place, held)
            for age, one in enumerate(self._by_use)
            for held in (one.held[cache],)
            for place in held.behind(one.position)
        ]
        if not found:
            return False
        *_, place, held = min(found, key=lambda entry: entry[:4])
        held.give(-place)
        return True

    def _evict(self, cache: int, but: Sequence) -> bool:
        """Take the last block of the idle sequence that was not used for the longest time.

        The current sequence comes last. Returns False if no other sequence is idle and has blocks.
        """
        idle = [one for one in self._by_use if one.held[cache].numbers]
        idle = [one for one in idle if not one.busy and one is not but]
        if not idle:
            return False
        victim = min(idle, key=lambda one: one is self.current)
        last = self._pools[cache].begin(len(victim.held[cache].numbers) - 1)
        kept = victim.resumable(min(victim.position, last))
        if victim is self.current:
            victim.pending[:0] = victim.tokens[kept:]
        self._cut(victim, kept)
        return True

    def batch(self, parts: Ids[Part]) -> Batch:
        """Return the batch of a pass."""
        spans: list[Span] = []
        wanted: list[int] = []
        first = 0
        for sequence, ids, rows, tentative in parts:
            blocks = tuple(held.seen(sequence.position, len(ids)) for held in sequence.held)
            states = (sequence.lag, tentative) if sequence.stateful else (0, 0)
            spans.append(Span(len(ids), sequence.position, blocks, sequence.lengthened, *states))
            wanted += [first + row for row in rows]
            first += len(ids)
        copies = [
            (cache, *held.copied)
            for part in parts
            for cache, held in enumerate(part.sequence.held)
            if held.copied
        ]
        return Batch(spans, wanted, copies)

    def runs(self, parts: Ids[Part]) -> None:
        """Note that a pass begins, in which states take in all rows that are not tentative."""
        for sequence, ids, _, tentative in parts:
            for held in sequence.held:
                held.take_in(sequence.position + len(ids) - tentative)

    def copied(self, parts: Ids[Part]) -> None:
        """Note that a pass has copied what the batch of these parts asked for."""
        for part in parts:
            for held in part.sequence.held:
                held.drop_copy()

    def evaluated(self, sequence: Sequence, count: int, ahead: int = 0) -> None:
        """Note that a pass has evaluated ids.

        Args:
            sequence: whose ids.
            count: how many pending ids are now tokens.
            ahead: how many ids after all pending ones have keys and values, too.
        """
        sequence.tokens += sequence.pending[:count]
        del sequence.pending[:count]
        sequence.ahead = ahead
        self._use(sequence)

    def extend(self, sequence: Sequence, ids: Ids[int], more: int = 0) -> None:
        """Append ids of a prompt, which are pending then; `more` of them will follow."""
        sequence.pending += ids
        self.suit(sequence, more)
        sequence.given = sequence.position + len(sequence.pending)

    def append(self, sequence: Sequence, token: int) -> None:
        """Append a generated id, which is pending then."""
        if sequence.ahead and sequence.pending:
            sequence.tokens += sequence.pending
            sequence.pending = []
            sequence.ahead -= 1
        sequence.pending.append(token)
        self.suit(sequence)

    def check(self, tokens: Ids[int]) -> list[int]:
        """Return tokens as integers; ConfigError for one out of range."""
        ids = [integer("token id", token) for token in tokens]
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ConfigError(f"token id is {token}, expected 0 to {self.vocab_size - 1}")
        return ids

    def require(self, position: int, count: int) -> None:
        """Raise ContextError unless `count` more tokens fit after a position."""
        if position + count > self.seq_len:
            raise ContextError(
                f"{count} tokens do not fit after {position} in a context of {self.seq_len}: "
                "shorten them, reset the context, or raise max_seq_len"
            )

    def limit(self, position: int, prompt: int, max_tokens: int | None) -> int:
        """Return how many tokens to generate after a prompt. The last one needs no position.

        Args:
            position: where the prompt begins.
            prompt: how many tokens the prompt has.
            max_tokens: most to generate; None for as many as fit.

        Raises:
            ConfigError: max_tokens is not a number, or negative.
            ContextError: prompt and max_tokens do not fit.
        """
        self.require(position, prompt)
        if max_tokens is None:
            return self.seq_len - position - prompt + 1
        count = integer("max_tokens", max_tokens, 0)
        self.require(position, prompt + max(0, count - 1))
        return count

    def recover(self, sequence: Sequence) -> None:
        """Evaluate tokens again if an interrupted pass may have changed the state after them."""
        if sequence.lag < 0:
            self._go_back(sequence, sequence.position)

    def _go_back(self, sequence: Sequence, position: int) -> None:
        """Forget all tokens from a position on. Some before it may be pending again."""
        kept = sequence.resumable(position)
        sequence.pending[:0] = sequence.tokens[kept:position]
        self._cut(sequence, kept)

    def _cut(self, sequence: Sequence, position: int) -> None:
        """Forget all tokens from a resumable position on, and give their blocks back."""
        del sequence.tokens[position:]
        sequence.ahead = 0
        for held in sequence.held:
            held.cut(position)
