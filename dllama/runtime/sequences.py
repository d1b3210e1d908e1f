"""Sequences: the ids whose keys and values a model keeps, and the KV blocks that hold them.

The root decides for all nodes which blocks a sequence has. Each node's executor fills them.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

from dllama._kernels.ops.kv_cache import block_positions
from dllama.checks import integer
from dllama.errors import ConfigError, ContextError
from dllama.runtime.batch import Batch, Span

# Ids at the end of a prompt, where templates begin an answer. They may change in the next turn.
SEAM = 4


class BlockPool:
    """The numbers of all KV blocks, and how many sequences use each.

    Args:
        count: how many blocks there are.
    """

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count

    def take(self) -> int:
        """Take a block that nobody uses.

        There always is one, since the pool has enough for all sequences at their longest.
        """
        block = self._free.pop()
        self._users[block] = 1
        return block

    def share(self, blocks: Ids[int]) -> list[int]:
        """Count one more user of blocks, and return them."""
        for block in blocks:
            self._users[block] += 1
        return list(blocks)

    def release(self, blocks: Ids[int]) -> None:
        """Count one user less. Blocks without a user are free again."""
        for block in blocks:
            self._users[block] -= 1
            if not self._users[block]:
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Return whether a block has several users."""
        return self._users[block] > 1


class Sequence:
    """A text as a model keeps it.

    Attributes:
        tokens: ids that are evaluated: their keys and values are kept.
        pending: ids that follow, from a prompt or generated, and are not evaluated yet.
        blocks: KV blocks of the tokens, by position.
        given: how many tokens there are up to the last one of a prompt.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.pending: list[int] = []
        self.blocks: list[int] = []
        self.given = 0

    @property
    def position(self) -> int:
        """How many tokens are evaluated."""
        return len(self.tokens)


class Sequences:
    """The sequences that a model keeps. One of them is the current one.

    Args:
        vocab_size: all ids are below it.
        seq_len: most positions of a sequence.
        count: how many sequences are kept.
    """

    def __init__(self, vocab_size: int, seq_len: int, count: int = 1) -> None:
        self.vocab_size = vocab_size
        self._seq_len = seq_len
        self._block = block_positions(seq_len)
        self._pool = BlockPool(count * -(-seq_len // self._block))
        self._by_use = [Sequence() for _ in range(count)]  # last used, last
        self.current = self._by_use[0]

    def continue_from(self, tokens: Ids[int]) -> int:
        """Make these ids the current sequence, with as few of them pending as possible.

        The sequence with the longest common prefix goes on if at most its generated ids differ.
        That is so for a conversation with a new turn, and for one whose last answer is asked for
        again or was changed by the template. Otherwise the sequence that was not used for the
        longest time gives way to one that shares the KV blocks of the common prefix.

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
        known = ids[:-1]
        shared = [_common(one.tokens, known) for one in self._by_use]
        kept = max(shared)
        best = self._by_use[shared.index(kept)]
        given = min(best.given, best.position)
        if kept < max(1, given - SEAM, (given + 1) // 2) and best is not self._by_use[0]:
            best = self._fork(best, kept, self._by_use[0])
        self._cut(best, kept)
        best.pending = ids[kept:]
        self.current = best
        return kept

    def _fork(self, source: Sequence, kept: int, target: Sequence) -> Sequence:
        """Make target a sequence of the first tokens of source, in the same blocks."""
        self._pool.release(target.blocks)
        target.tokens, target.given = source.tokens[:kept], min(source.given, kept)
        target.blocks = self._pool.share(source.blocks[: self._blocks(kept)])
        return target

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
        """Forget all sequences."""
        for sequence in self._by_use:
            self._cut(sequence, 0)
            sequence.pending = []

    def next_batch(self, count: int, wanted: Ids[int]) -> Batch:
        """Return a batch of the next ids of the current sequence, with KV blocks for them.

        Args:
            count: how many ids; they fit (see require).
            wanted: rows whose logits are wanted.
        """
        sequence, copies = self.current, []
        written = sequence.position // self._block
        if written < len(sequence.blocks) and self._pool.is_shared(sequence.blocks[written]):
            shared, own = sequence.blocks[written], self._pool.take()
            self._pool.release([shared])
            sequence.blocks[written] = own
            copies.append((shared, own))
        while len(sequence.blocks) < self._blocks(sequence.position + count):
            sequence.blocks.append(self._pool.take())
        span = Span(count, sequence.position, tuple(sequence.blocks))
        return Batch((span,), wanted, copies)

    def take_back(self, batch: Batch) -> None:
        """Undo next_batch, if its batch may not have been evaluated: nothing counts as copied."""
        blocks = self.current.blocks
        for shared, own in batch.copies:
            blocks[blocks.index(own)] = shared
            self._pool.share([shared])
            self._pool.release([own])

    def evaluated(self, ids: Ids[int], given: bool) -> None:
        """Note that a pass has evaluated ids of the current sequence.

        Args:
            ids: all ids of the batch.
            given: whether they are of a prompt; else they were generated.
        """
        sequence = self.current
        sequence.tokens.extend(ids)
        if given:
            sequence.given = sequence.position
        self._by_use.remove(sequence)
        self._by_use.append(sequence)

    def check(self, tokens: Ids[int]) -> list[int]:
        """Return tokens as integers; ConfigError for one out of range."""
        ids = [integer("token id", token) for token in tokens]
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ConfigError(f"token id is {token}, expected 0 to {self.vocab_size - 1}")
        return ids

    def require(self, count: int) -> None:
        """Raise ContextError unless `count` more tokens fit in the current sequence."""
        position = self.current.position
        if position + count > self._seq_len:
            raise ContextError(
                f"{count} tokens do not fit after {position} in a context of {self._seq_len}: "
                "shorten them, reset the context, or raise max_seq_len"
            )

    def limit(self, prompt: int, max_tokens: int | None) -> int:
        """Return how many tokens to generate after a prompt. The last one needs no position.

        Args:
            prompt: how many tokens the prompt has.
            max_tokens: most to generate; None for as many as fit.

        Raises:
            ConfigError: max_tokens is not a number, or negative.
            ContextError: prompt and max_tokens do not fit.
        """
        self.require(prompt)
        if max_tokens is None:
            return self._seq_len - self.current.position - prompt + 1
        count = integer("max_tokens", max_tokens, 0)
        self.require(prompt + max(0, count - 1))
        return count

    def _blocks(self, positions: int) -> int:
        """Return how many blocks hold so many positions."""
        return -(-positions // self._block)

    def _cut(self, sequence: Sequence, position: int) -> None:
        """Forget all tokens from a position on, and give their blocks back."""
        del sequence.tokens[position:]
        self._pool.release(sequence.blocks[self._blocks(position) :])
        del sequence.blocks[self._blocks(position) :]


def _common(a: Ids[int], b: Ids[int]) -> int:
    """Return the length of the longest common prefix."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))
