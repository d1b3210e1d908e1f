"""The context: ids that are evaluated, those that wait for the next pass, and how many fit."""

from __future__ import annotations

from collections.abc import Sequence

from dllama.checks import integer
from dllama.errors import ConfigError, ContextError
from dllama.runtime.contexts import Contexts


class Context:
    """Token ids below vocab_size, at most seq_len of them; `count` such texts, one of them current.

    pending: those that come next, generated or given, but not yet evaluated.
    """

    def __init__(self, vocab_size: int, seq_len: int, count: int = 1) -> None:
        self._texts = Contexts(count)
        self.pending: list[int] = []
        self._vocab_size = vocab_size
        self._seq_len = seq_len

    @property
    def tokens(self) -> list[int]:
        """Those that are evaluated, whose keys and values are kept."""
        return self._texts.tokens

    @property
    def place(self) -> tuple[int, int]:
        """The context of the next pass, and the one that holds what stands before (session.Run)."""
        return self._texts.current, self._texts.source

    @property
    def position(self) -> int:
        """How many are evaluated."""
        return len(self.tokens)

    def rewind(self, position: int) -> None:
        """Keep the first `position` tokens, none that wait; ConfigError where there are fewer."""
        if not 0 <= position <= self.position:
            raise ConfigError(f"position is {position}, expected 0 to {self.position}")
        del self.tokens[position:]
        self.pending = []

    def continue_from(self, tokens: Sequence[int]) -> int:
        """Let all of these ids wait that no context begins with, at least the last one.

        Returns how many are kept. ConfigError, ContextError: they are none, out of range, or
        too many; nothing is changed then.
        """
        ids = self.check(tokens)
        if not ids:
            raise ConfigError("there are no tokens to continue from")
        if len(ids) > self._seq_len:
            raise ContextError(f"{len(ids)} tokens do not fit in a context of {self._seq_len}")
        kept = self._texts.choose(ids[:-1])
        self.pending = ids[kept:]
        return kept

    def evaluated(self, ids: Sequence[int], given: bool) -> None:
        """A pass has evaluated these ids; given: they are of a prompt."""
        self._texts.evaluated(ids, given)

    def clear(self) -> None:
        """Forget all texts."""
        self._texts.clear()
        self.pending = []

    def check(self, tokens: Sequence[int]) -> list[int]:
        """The tokens as integers; ConfigError for one out of range."""
        ids = [integer("token id", token) for token in tokens]
        for token in ids:
            if not 0 <= token < self._vocab_size:
                raise ConfigError(f"token id is {token}, expected 0 to {self._vocab_size - 1}")
        return ids

    def require(self, count: int) -> None:
        """ContextError unless `count` more tokens fit."""
        if self.position + count > self._seq_len:
            raise ContextError(
                f"{count} tokens do not fit behind {self.position} in a context of "
                f"{self._seq_len}: shorten them, reset the context, or raise max_seq_len"
            )

    def limit(self, prompt: int, max_tokens: int | None) -> int:
        """How many tokens to generate behind a prompt; the last one needs no position of its own.

        ConfigError for max_tokens that is no number, ContextError where they do not fit.
        """
        self.require(prompt)
        room = self._seq_len - self.position - prompt + 1
        if max_tokens is None:
            return room
        count = integer("max_tokens", max_tokens, 0)
        self.require(prompt + max(0, count - 1))
        return count
