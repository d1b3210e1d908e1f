"""Sequences: the ids whose keys and values a model keeps, and the KV blocks that hold them.

The root decides for all nodes which blocks a sequence has. Each node's executor fills them.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import NamedTuple

from dllama._kernels.ops.kv_cache import block_positions
from dllama.checks import integer
from dllama.errors import ConfigError, ContextError
from dllama.runtime.batch import Batch, Span
from dllama.runtime.block_pool import BlockPool

# Ids at the end of a prompt, where templates begin an answer. They may change in the next turn.
SEAM = 4


class Sequence:
    """A text as a model keeps it.

    Attributes:
        tokens: ids that are evaluated: their keys and values are kept.
        pending: ids that follow, from a prompt or generated, and are not evaluated yet.
        ahead: how many ids after the tokens have keys and values already. These are drafted ids
            that turned out right and will be tokens when they are asked for.
        blocks: KV blocks of the tokens, by position.
        copied: (source, target): target is one of the blocks, which the next pass makes a copy of
            source; None if there is nothing to copy.
        given: how many ids there are up to the last one of a prompt.
        busy: whether a text is being generated in it, so that nobody else may change it.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.pending: list[int] = []
        self.ahead = 0
        self.blocks: list[int] = []
        self.copied: tuple[int, int] | None = None
        self.given = 0
        self.busy = False

    @property
    def position(self) -> int:
        """How many tokens are evaluated."""
        return len(self.tokens)


class Part(NamedTuple):
    """Rows of one sequence in a pass.

    Args:
        sequence: the sequence; there is room for the rows (Sequences.reserve).
        ids: of the rows, which follow its tokens.
        wanted: rows whose logits are wanted.
    """

    sequence: Sequence
    ids: Ids[int]
    wanted: range


class Sequences:
    """All sequences of a model.

    They share a number of KV blocks. When these are used up, the sequence that was not used for the
    longest time loses its end. A sequence that loses tokens while somebody works on it has them
    pending again, so that they are evaluated once more, with the same bits.

    Args:
        vocab_size: ids are below.
        seq_len: most positions of a sequence.
        contexts: there are KV blocks for so many sequences of full length.

    Attributes:
        current: the sequence that LLM works on.
    """

    def __init__(self, vocab_size: int, seq_len: int, contexts: int) -> None:
        self.vocab_size = vocab_size
        self._seq_len = seq_len
        self._block = block_positions(seq_len)
        self._pool = BlockPool(contexts * -(-seq_len // self._block))
        self.current = Sequence()
        self._by_use = [self.current]  # last used, last

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
        if len(ids) > self._seq_len:
            raise ContextError(f"{len(ids)} tokens do not fit in a context of {self._seq_len}")
        self.current.pending = []
        self.current = self._open(ids)
        return self.current.position

    def open(self, ids: list[int]) -> Sequence:
        """Return a sequence of these ids for a text of its own; the current one stays as it is.

        Args:
            ids: at least one; they fit.
        """
        return self._open(ids, self.current)

    def _open(self, ids: list[int], keep: Sequence | None = None) -> Sequence:
        """Return a sequence of these ids that nobody else works on, few of them pending.

        The sequence with the longest common prefix goes on if at most its generated ids differ.
        That is so for a conversation with a new turn, and for one whose last answer is asked for
        again or was changed by the template. Otherwise a new one shares the KV blocks of the common
        prefix.

        Args:
            ids: at least one; they fit.
            keep: a sequence that stays as it is.
        """
        kept, best = self._longest(ids[:-1])
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
        return self._longest(ids[:-1])[0]

    def _longest(self, ids: list[int]) -> tuple[int, Sequence]:
        """Return the length of the longest known prefix, and whose it is; rather one not busy."""
        shared = [(common_prefix(one.tokens, ids), not one.busy, one) for one in self._by_use]
        kept, _, best = max(shared, key=lambda entry: entry[:2])
        return kept, best

    def _fork(self, source: Sequence, kept: int) -> Sequence:
        """Return a new sequence of the first tokens of source, in the same blocks."""
        made = Sequence()
        made.tokens = source.tokens[:kept]
        made.blocks = self._pool.share(source.blocks[: self._blocks(kept)])
        if source.copied and source.copied[1] in made.blocks:  # not copied yet
            at = made.blocks.index(source.copied[1])
            self._pool.release([made.blocks[at]])
            (made.blocks[at],) = self._pool.share([source.copied[0]])
        return made

    def _use(self, sequence: Sequence) -> None:
        """Note that a sequence is used now, and drop those that hold nothing."""
        others = [one for one in self._by_use if one is not sequence]
        self._by_use = [one for one in others if one.tokens or one.busy or one is self.current]
        self._by_use.append(sequence)

    def rewind(self, position: int) -> None:
        """Keep the first tokens of the current sequence, and nothing pending.

        Args:
            position: how many tokens to keep.

        Raises:
            ConfigError: there are fewer tokens.
        """
        if not 0 <= position <= self.current.position:
            raise ConfigError(f"position is {position}, expected 0 to {self.current.position}")
        self._cut(self.current, position)
        self.current.pending = []

    def clear(self) -> None:
        """Forget all sequences; nobody works on any."""
        for sequence in self._by_use:
            self._cut(sequence, 0)
        self.current = Sequence()
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
        used = {block for one in self.busy(sequence) for block in one.blocks}
        return self._blocks(len(sequence.tokens) + len(sequence.pending)) <= self._pool.count - len(
            used
        )

    def reserve(self, sequence: Sequence, count: int, spare: Ids[Sequence] = ()) -> bool:
        """Make room for the next ids of a sequence.

        Args:
            sequence: any.
            count: how many ids; they fit (see require).
            spare: sequences in use that may give way, one after another, if idle ones do not do.

        Returns:
            False if there are too few KV blocks.
        """
        wanted, givers = self._blocks(sequence.position + count), iter(spare)
        while True:
            at = sequence.position // self._block
            copies = at < len(sequence.blocks) and self._pool.is_shared(sequence.blocks[at])
            missing = max(0, wanted - len(sequence.blocks)) + copies
            if missing <= self._pool.free:
                break
            if not self._evict(sequence):
                giver = next(givers, None)
                if giver is None:
                    return False
                self.give_way(giver)
        if copies:
            sequence.copied = (sequence.blocks[at], self._pool.take())
            sequence.blocks[at] = sequence.copied[1]
        while len(sequence.blocks) < wanted:
            sequence.blocks.append(self._pool.take())
        return True

    def _evict(self, but: Sequence) -> bool:
        """Take the last block of the idle sequence that was not used for the longest time.

        The current sequence comes last. Returns False if no other sequence is idle.
        """
        idle = [one for one in self._by_use if one.blocks and not one.busy and one is not but]
        if not idle:
            return False
        victim = min(idle, key=lambda one: one is self.current)
        kept = min(victim.position, (len(victim.blocks) - 1) * self._block)
        if victim is self.current:
            victim.pending[:0] = victim.tokens[kept:]
        self._cut(victim, kept)
        return True

    def batch(self, parts: Ids[Part]) -> Batch:
        """Return the batch of a pass."""
        spans: list[Span] = []
        wanted: list[int] = []
        first = 0
        for sequence, ids, rows in parts:
            blocks = sequence.blocks[: self._blocks(sequence.position + len(ids))]
            spans.append(Span(len(ids), sequence.position, tuple(blocks)))
            wanted += [first + row for row in rows]
            first += len(ids)
        copies = [part.sequence.copied for part in parts if part.sequence.copied]
        return Batch(spans, wanted, copies)

    def copied(self, parts: Ids[Part]) -> None:
        """Note that a pass has copied what the batch of these parts asked for."""
        for part in parts:
            self._drop_copy(part.sequence)

    def _drop_copy(self, sequence: Sequence) -> None:
        """Give up the block that a sequence was to copy."""
        if sequence.copied:
            self._pool.release([sequence.copied[0]])
            sequence.copied = None

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

    def extend(self, sequence: Sequence, ids: Ids[int]) -> None:
        """Append ids of a prompt, which are pending then."""
        sequence.pending += ids
        sequence.given = sequence.position + len(sequence.pending)

    def append(self, sequence: Sequence, token: int) -> None:
        """Append a generated id, which is pending then."""
        if sequence.ahead and sequence.pending:
            sequence.tokens += sequence.pending
            sequence.pending = []
            sequence.ahead -= 1
        sequence.pending.append(token)

    def check(self, tokens: Ids[int]) -> list[int]:
        """Return tokens as integers; ConfigError for one out of range."""
        ids = [integer("token id", token) for token in tokens]
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ConfigError(f"token id is {token}, expected 0 to {self.vocab_size - 1}")
        return ids

    def require(self, position: int, count: int) -> None:
        """Raise ContextError unless `count` more tokens fit after a position."""
        if position + count > self._seq_len:
            raise ContextError(
                f"{count} tokens do not fit after {position} in a context of {self._seq_len}: "
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
            return self._seq_len - position - prompt + 1
        count = integer("max_tokens", max_tokens, 0)
        self.require(position, prompt + max(0, count - 1))
        return count

    def _blocks(self, positions: int) -> int:
        """Return how many blocks hold so many positions."""
        return -(-positions // self._block)

    def _cut(self, sequence: Sequence, position: int) -> None:
        """Forget all tokens from a position on, and give their blocks back."""
        del sequence.tokens[position:]
        sequence.ahead = 0
        self._pool.release(sequence.blocks[self._blocks(position) :])
        del sequence.blocks[self._blocks(position) :]
        if sequence.copied and sequence.copied[1] not in sequence.blocks:
            self._drop_copy(sequence)


def common_prefix(a: list[int], b: list[int]) -> int:
    """Return the length of the longest common prefix."""
    if a[:1] != b[:1]:
        return 0
    low, high = 0, min(len(a), len(b))
    while low < high:  # a[:low] == b[:low], and the prefix is not longer than high
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
