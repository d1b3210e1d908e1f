"""Byte-pair encoding by score, for models that have only a .t file.

Like SentencePiece (Kudo and Richardson 2018, section 3.1), it merges the pair of neighbours whose
joined text has the highest score until no pair is in the vocabulary. There are two kinds of
vocabulary, told apart by their one-byte tokens:

* Byte-level (Llama 3): every byte is one token, and merging starts from bytes. Hugging Face first
  splits text into words by rules in tokenizer.json that a .t file cannot hold, so ids may differ
  where a merge crosses a word boundary.
* SentencePiece (Llama 2): merging starts from characters, with a space before the text unless the
  file says no (Gemma). A character without a token falls back to its bytes.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence

from dllama.errors import ConfigError
from dllama.text.tokenizer_file import TokenizerData

MARK = "\u2581"  # a space in SentencePiece's files, but not in .t files
BYTE_NAME = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


class ScoredBpe:
    """Encodes and decodes with the vocabulary and scores of a .t file.

    Attributes:
        special: ids that stand for no text.
    """

    def __init__(self, data: TokenizerData) -> None:
        self._scores = data.scores
        self._bytes, self._byte_level = _byte_ids(data.vocab)
        self._prefix = "" if self._byte_level or not data.prefix_space else " "
        self._vocab = [_text(token) for token in data.vocab]
        self.special = _special_ids(data, self._byte_level)
        # A token may have the same text as a fallback byte. It comes later, and it wins.
        self._ids = {
            token: index for index, token in enumerate(data.vocab) if index not in self.special
        }
        self._unknown = next((i for i in self.special if data.vocab[i] == b"<unk>"), None)
        self._names = {data.vocab[i].decode(errors="replace"): i for i in sorted(self.special)}
        self._names.pop("", None)
        longest_first = sorted(map(re.escape, self._names), key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(longest_first) + ")")

    def encode(self, text: str) -> list[int]:
        """Encode a text; names of special tokens in it become their ids.

        Raises:
            ConfigError: the vocabulary has no token for a character, not even an unknown token.
        """
        ids: list[int] = []
        for index, part in enumerate(self._pattern.split(text) if self._names else [text]):
            if part in self._names:
                ids.append(self._names[part])
            elif part:
                ids += self._encode_part(part if index else self._prefix + part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to text.

        Special ids and ids outside the vocabulary add nothing. Invalid UTF-8 becomes U+FFFD.
        """
        known = (i for i in ids if 0 <= i < len(self._vocab) and i not in self.special)
        text = b"".join(self._vocab[i] for i in known).decode(errors="replace")
        return text.removeprefix(self._prefix)

    def spell(self, token: int) -> bytes:
        """Return the bytes of an id (a special token's name), or b"" outside the vocabulary."""
        return self._vocab[token] if token < len(self._vocab) else b""

    def _encode_part(self, text: str) -> list[int]:
        """Encode a text that contains no special tokens."""
        if self._byte_level:
            symbols = [bytes([byte]) for byte in text.encode()]
        else:
            symbols = [character.encode() for character in text.replace(MARK, " ")]
        ids: list[int] = []
        for symbol in self._merge(symbols):
            index = self._ids.get(symbol)
            found = [index] if index is not None else self._fallback(symbol)
            if found != [self._unknown] or ids[-1:] != found:  # a run of unknowns is one token
                ids += found
        return ids

    def _fallback(self, symbol: bytes) -> list[int]:
        """Return the bytes of a character that has no token, or else the unknown token."""
        found = [self._bytes[byte] for byte in symbol if byte in self._bytes]
        if len(found) == len(symbol):
            return found
        if self._unknown is None:
            raise ConfigError(f"the tokenizer has no token for {symbol.decode()!r}")
        return [self._unknown]

    def _merge(self, symbols: list[bytes]) -> Iterator[bytes]:
        """Merge neighbours: the best score first, among equals the leftmost."""
        left = list(range(-1, len(symbols) - 1))
        right = [*range(1, len(symbols)), -1]
        heap: list[tuple[float, int, bytes]] = []

        def propose(at: int) -> None:
            if at >= 0 and right[at] >= 0:
                joined = symbols[at] + symbols[right[at]]
                if joined in self._ids:
                    heapq.heappush(heap, (-self._scores[self._ids[joined]], at, joined))

        for at in range(len(symbols)):
            propose(at)
        while heap:
            _, at, joined = heapq.heappop(heap)
            after = right[at]
            if not symbols[at] or after < 0 or len(joined) != len(symbols[at] + symbols[after]):
                continue  # one of the two has been merged with its other neighbour
            symbols[at], symbols[after] = joined, b""
            right[at] = right[after]
            if right[at] >= 0:
                left[right[at]] = at
            propose(left[at])
            propose(at)
        return filter(None, symbols)


def _text(token: bytes) -> bytes:
    """The bytes that a token stands for."""
    name = BYTE_NAME.fullmatch(token)
    return bytes([int(name[1], 16)]) if name else token


def _byte_ids(vocab: list[bytes]) -> tuple[dict[int, int], bool]:
    """Return the id of each single-byte token, and whether the vocabulary is byte-level."""
    ids: dict[int, int] = {}
    plain = [0] * 256
    for index, token in enumerate(vocab):
        if len(token) == 1:
            plain[token[0]] += 1
        if len(_text(token)) == 1:
            ids.setdefault(_text(token)[0], index)
    return ids, plain == [1] * 256


def _special_ids(data: TokenizerData, byte_level: bool) -> frozenset[int]:
    """Return the BOS, EOS and unknown ids.

    In a byte-level vocabulary, special tokens follow the merged ones and BOS is the first of them,
    so all ids from BOS on are special.
    """
    ids = {*data.eos_ids, *([data.bos_id] if data.bos_id >= 0 else [])}
    if not byte_level:
        return frozenset(ids | {i for i, token in enumerate(data.vocab) if token == b"<unk>"})
    first = data.bos_id if data.bos_id >= 0 else min(ids, default=len(data.vocab))
    if first > len(data.vocab) // 2:
        ids.update(range(first, len(data.vocab)))
    return frozenset(ids)
