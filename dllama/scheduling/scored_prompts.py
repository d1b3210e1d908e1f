"""Prompts whose log-probabilities are known, for others that begin with the same ids."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from dllama.runtime.prefix import common_prefix
from dllama.text.stream import Token

MOST = 1 << 17  # log-probabilities that are remembered


class Scored(NamedTuple):
    """A prompt.

    Attributes:
        ids: of the prompt.
        tokens: the same with their log-probabilities.
        top: how many alternatives they come with.
    """

    ids: list[int]
    tokens: list[Token]
    top: int

    @property
    def size(self) -> int:
        """How many log-probabilities it has."""
        return len(self.ids) * (1 + self.top)


class ScoredPrompts:
    """The last prompts that were scored."""

    def __init__(self) -> None:
        self._prompts: deque[Scored] = deque()  # oldest first
        self._size = 0

    def add(self, tokens: Sequence[Token], count: int) -> None:
        """Remember a prompt with `count` alternatives of each token."""
        made = Scored([token.id for token in tokens], [*tokens], count)
        self._prompts.append(made)
        self._size += made.size
        while self._size > MOST:
            self._size -= self._prompts.popleft().size

    def clear(self) -> None:
        """Forget all prompts."""
        self._prompts.clear()
        self._size = 0

    def known(self, ids: list[int], count: int) -> list[Token]:
        """Return as many of the first ids as are known, with `count` alternatives."""
        found: list[Token] = []
        for prompt in self._prompts:
            if prompt.top >= count:
                length = common_prefix(prompt.ids, ids)
                found = prompt.tokens[:length] if length > len(found) else found
        return [replace(token, top=token.top[:count]) for token in found]
