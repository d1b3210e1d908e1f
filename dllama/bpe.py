"""Byte-pair encoding with scores, for models that come with a .t file alone.

Starts from single bytes and merges the neighbours whose joined bytes have the highest
score, as SentencePiece does (Kudo and Richardson 2018, section 3.1). Without the rules by
which a tokenizer.json cuts text into words first, ids may differ from Hugging Face's.
"""

from __future__ import annotations

import heapq
import re

from dllama.errors import ConfigError
from dllama.tokenizerfile import TokenizerData


class ScoredBpe:
    """Text to ids and ids to bytes; `special` are the ids that stand for no text."""

    def __init__(self, data: TokenizerData) -> None:
        self._vocab = data.vocab
        self._scores = data.scores
        # Where a piece repeats a fallback byte, the piece comes later and is meant.
        self._ids = {token: index for index, token in enumerate(data.vocab)}
        self.special = _special_ids(data)
        for index in self.special:
            if self._ids.get(data.vocab[index]) == index:
                del self._ids[data.vocab[index]]
        names = {data.vocab[index].decode(errors="replace"): index for index in self.special}
        self._special_names = {name: index for name, index in names.items() if name}
        longest_first = sorted(map(re.escape, self._special_names), key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(longest_first) + ")")

    def encode(self, text: str) -> list[int]:
        """Ids of a text; names of special tokens in it become their ids."""
        ids: list[int] = []
        pieces = self._special_pattern.split(text) if self._special_names else [text]
        for piece in pieces:
            if piece in self._special_names:
                ids.append(self._special_names[piece])
            elif piece:
                ids += self._merge(self._bytes(piece.encode()))
        return ids

    def decode(self, ids: list[int]) -> bytes:
        """Bytes of the ids; special ones and ids beyond the vocabulary have none."""
        known = (i for i in ids if 0 <= i < len(self._vocab) and i not in self.special)
        return b"".join(self._vocab[i] for i in known)

    def _bytes(self, data: bytes) -> list[int]:
        """The shortest tokens that spell the data: single bytes where the vocabulary has them."""
        ids: list[int] = []
        begin = 0
        for end in range(1, len(data) + 1):
            token = self._ids.get(data[begin:end])
            if token is not None:
                ids.append(token)
                begin = end
        if begin != len(data):
            raise ConfigError(f"the tokenizer has no token for {data[begin : begin + 4]!r}")
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Merge neighbours, best score first, leftmost first among equals."""
        left = list(range(-1, len(ids) - 1))
        right = [*range(1, len(ids)), -1]
        alive = list(ids)  # -1 where a token was merged into its left neighbour
        heap: list[tuple[float, int, int, int, int]] = []

        def propose(at: int) -> None:
            after = right[at] if at >= 0 else -1
            if at < 0 or after < 0:
                return
            first, second = alive[at], alive[after]
            merged = self._ids.get(self._vocab[first] + self._vocab[second])
            if merged is not None:
                heapq.heappush(heap, (-self._scores[merged], at, first, second, merged))

        for at in range(len(ids)):
            propose(at)
        while heap:
            _, at, first, second, merged = heapq.heappop(heap)
            after = right[at]
            if alive[at] != first or after < 0 or alive[after] != second:
                continue  # one of the two was merged with another neighbour
            alive[at], alive[after] = merged, -1
            right[at] = right[after]
            if right[at] >= 0:
                left[right[at]] = at
            propose(left[at])
            propose(at)
        return [token for token in alive if token >= 0]


def _special_ids(data: TokenizerData) -> frozenset[int]:
    """bos, eos, and the tokens behind a bos that follows the regular ones (as in Llama 3)."""
    ids = {*data.eos_ids, *([data.bos_id] if data.bos_id >= 0 else [])}
    if data.bos_id > len(data.vocab) // 2:
        ids.update(range(data.bos_id, len(data.vocab)))
    return frozenset(ids)
