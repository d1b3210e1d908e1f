"""The tokenizer of a model: text to ids and back, also one id at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer as HfTokenizer

from dllama.bpe import ScoredBpe
from dllama.errors import FormatError, ModelError
from dllama.tokenizerfile import TokenizerData, read_tokenizer

REPLACEMENT = "\ufffd"


class _Backend(Protocol):
    """What turns text into ids and ids into text."""

    def encode(self, text: str, whole: bool) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class Tokenizer:
    """vocab_size, bos_id (or None), eos_ids, add_bos and chat_template (or None) are readable.

    add_bos: whether a text at the beginning of a context gets a bos. With a tokenizer.json
    the ids are those of Hugging Face `tokenizers`; a .t file alone is encoded by score.
    """

    def __init__(self, backend: _Backend, data: TokenizerData, vocab_size: int) -> None:
        self._backend = backend
        self.vocab_size = vocab_size
        self.bos_id = data.bos_id if data.bos_id >= 0 else None
        self.eos_ids = data.eos_ids
        self.add_bos = data.add_bos and self.bos_id is not None
        self.chat_template = data.chat_template

    @classmethod
    def open(cls, path: str | Path) -> Tokenizer:
        """Open a .t file, or a folder with tokenizer.t; a tokenizer.json beside it is used.

        ModelError where there is none, FormatError for a broken one or two that differ.
        """
        path = Path(path)
        file = path / "tokenizer.t" if path.is_dir() else path
        data = read_tokenizer(file)
        fast = file.with_name("tokenizer.json")
        if file.name != "tokenizer.t" or not fast.is_file():
            return cls(_Scored(data), data, len(data.vocab))
        tokenizer = open_fast(fast)
        size = max(tokenizer.get_vocab().values(), default=-1) + 1
        if size != len(data.vocab):
            raise FormatError(fast, "vocabulary", f"{size} tokens", f"{len(data.vocab)} as {file}")
        return cls(_Fast(tokenizer), data, size)

    def encode(self, text: str, add_bos: bool | None = None) -> list[int]:
        """Ids of a text. add_bos: None for what the tokenizer does with a whole text."""
        if add_bos is None:
            return self._backend.encode(text, whole=True)
        ids = self._backend.encode(text, whole=False)
        return [self.bos_id, *ids] if add_bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens have none, bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids))

    def stream(self) -> StreamDecoder:
        """A decoder that takes ids one at a time."""
        return StreamDecoder(self)


class StreamDecoder:
    """Text of ids as they come: all texts joined equal decode() of all ids.

    A character whose bytes are not complete is held back until they are, or until flush.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # the last ids that gave text, and all since
        self._given = 0  # how many of them have given theirs
        self._text = ""  # the text of those

    def push(self, token: int) -> str:
        """The text that is certain after one more id."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(REPLACEMENT) else self._advance(text)

    def flush(self) -> str:
        """The rest of the text; an incomplete character becomes U+FFFD."""
        return self._advance(self._tokenizer.decode(self._ids))

    def _advance(self, text: str) -> str:
        """What is new in the text of the ids.

        Ids before the last that gave text are forgotten; those stay, because a decoder treats
        the beginning of a text differently.
        """
        new = text[len(self._text) :]
        if new:
            self._ids = self._ids[self._given :]
            self._given = len(self._ids)
            self._text = self._tokenizer.decode(self._ids)
        return new


class _Fast:
    """The `tokenizers` library."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, whole: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=whole).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class _Scored:
    """A .t file alone."""

    def __init__(self, data: TokenizerData) -> None:
        self._bpe = ScoredBpe(data)
        self._begin = [data.bos_id] if data.add_bos and data.bos_id >= 0 else []

    def encode(self, text: str, whole: bool) -> list[int]:
        return (self._begin if whole else []) + self._bpe.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._bpe.decode(ids).decode(errors="replace")


def open_fast(path: Path) -> HfTokenizer:
    """A tokenizer.json; ModelError if it cannot be read, FormatError if it is broken."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        return HfTokenizer.from_str(text)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except Exception as error:  # the library raises plain Exception
        raise FormatError(path, "tokenizer", f"broken ({error})", "a tokenizer.json") from error
