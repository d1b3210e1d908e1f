"""Tokenizer files (.t): vocabulary with scores, special ids and the chat template."""

from __future__ import annotations

import math
import os
import struct
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from dllama.errors import FormatError, ModelError, OutputError, UnsupportedError
from dllama.git_lfs import refuse_pointer

MAGIC = 0x567124
OLD_MAGIC = 0x567123
MAX_VOCAB = 1 << 24
MAX_HEADER = 8 + 8 * 64
ENTRY = struct.Struct("<fI")  # of a token: its score and its length


class Key(IntEnum):
    """Header keys. Only older files have EOS_ID, CHAT_EOS_ID and the keys that are ignored.

    Keys from 1000 up are not in distributed-llama's files.
    """

    VERSION = 0
    VOCAB_SIZE = 1
    MAX_TOKEN_LENGTH = 2
    BOS_ID = 3
    EOS_ID = 4
    PAD_ID = 5
    CHAT_EOS_ID = 6
    CHAT_TEMPLATE = 7
    CHAT_STOP = 8
    N_EOS_TOKENS = 9
    ADD_BOS = 10
    PREFIX_SPACE = 1000


@dataclass(frozen=True)
class TokenizerData:
    """The contents of a .t file.

    Attributes:
        vocab: bytes of each token.
        scores: one per token; pairs with higher scores merge first.
        bos_id: -1 if there is none.
        eos_ids: ids that end a text.
        add_bos: whether a text starts with BOS.
        chat_template: Jinja source, or None.
        prefix_space: whether a SentencePiece vocabulary puts a space before a text.
    """

    vocab: list[bytes]
    scores: list[float]
    bos_id: int
    eos_ids: tuple[int, ...]
    add_bos: bool
    chat_template: str | None
    prefix_space: bool = True


def read_tokenizer(path: str | Path) -> TokenizerData:
    """Read a .t file.

    Raises:
        FormatError: the file breaks the format.
        UnsupportedError: the file is of an older format or has an unknown key.
        ModelError: the file cannot be read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    refuse_pointer(data, path)
    return _Reader(path, data).read()


class _Reader:
    """Parses a file from front to back and checks every length before using it."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def read(self) -> TokenizerData:
        values = self._header()
        self._take(values.get(Key.CHAT_STOP, 0), "chat stop")
        template = self._take(values.get(Key.CHAT_TEMPLATE, 0), "chat template")
        eos = [values[key] for key in (Key.EOS_ID, Key.CHAT_EOS_ID) if key in values]
        count = values.get(Key.N_EOS_TOKENS, 0)
        eos += struct.unpack(f"<{count}i", self._take(4 * count, "eos ids"))
        vocab, scores = self._vocab(values[Key.VOCAB_SIZE])
        if self._at != len(self._data):
            raise self._error("file size", f"{len(self._data)} bytes", f"{self._at}")
        self._check_ids(values.get(Key.BOS_ID, -1), eos, len(vocab))
        return TokenizerData(
            vocab=vocab,
            scores=scores,
            bos_id=values.get(Key.BOS_ID, -1),
            eos_ids=tuple(dict.fromkeys(eos)),
            add_bos=values.get(Key.ADD_BOS, 1) == 1,
            chat_template=self._text(template) if template else None,
            prefix_space=values.get(Key.PREFIX_SPACE, 1) == 1,
        )

    def _header(self) -> dict[Key, int]:
        """Read the magic, the header size and the key-value pairs, and check them."""
        magic, size = struct.unpack("<Ii", self._take(8, "header"))
        if magic == OLD_MAGIC:
            raise UnsupportedError(f"{self._path}: an old tokenizer file, convert it again")
        if magic != MAGIC:
            raise self._error("magic", f"{magic:#x}", f"{MAGIC:#x}")
        if not 8 <= size <= MAX_HEADER or size % 8:
            raise self._error("header size", size, f"a multiple of 8 up to {MAX_HEADER}")
        pairs = struct.unpack(f"<{(size - 8) // 4}i", self._take(size - 8, "header"))
        values: dict[Key, int] = {}
        for number, value in zip(pairs[::2], pairs[1::2], strict=True):
            if number not in list(Key):
                raise UnsupportedError(f"{self._path}: header key {number} is unknown")
            if Key(number) in values:
                raise self._error(f"header key {Key(number).name}", "given twice", "once")
            values[Key(number)] = value
        self._check_header(values)
        return values

    def _check_header(self, values: dict[Key, int]) -> None:
        ranges = {
            Key.VERSION: (1, 1),
            Key.VOCAB_SIZE: (1, MAX_VOCAB),
            Key.MAX_TOKEN_LENGTH: (1, 1 << 20),
        }
        for key in ranges:
            if key not in values:
                raise self._error(key.name.lower(), "missing", "a value in the header")
        ranges |= {key: (0, len(self._data)) for key in (Key.CHAT_TEMPLATE, Key.CHAT_STOP)}
        ranges |= {Key.N_EOS_TOKENS: (0, 4096), Key.BOS_ID: (-1, MAX_VOCAB)}
        ranges |= dict.fromkeys((Key.ADD_BOS, Key.PREFIX_SPACE), (0, 1))
        for key, (least, most) in ranges.items():
            if key in values and not least <= values[key] <= most:
                raise self._error(key.name.lower(), values[key], f"{least} to {most}")

    def _vocab(self, count: int) -> tuple[list[bytes], list[float]]:
        """Read `count` tokens and their scores."""
        if 8 * count > len(self._data):
            raise self._error("vocab_size", count, f"at most {len(self._data) // 8} in this file")
        vocab, scores = [], []
        data, at = self._data, self._at
        for index in range(count):
            if at + ENTRY.size > len(data):
                raise self._cut_off(at, ENTRY.size, f"token {index}")
            score, length = ENTRY.unpack_from(data, at)
            if math.isnan(score):
                raise self._error(f"score of token {index}", score, "a number")
            at += ENTRY.size
            if at + length > len(data):
                raise self._cut_off(at, length, f"token {index}")
            vocab.append(data[at : at + length])
            scores.append(score)
            at += length
        self._at = at
        return vocab, scores

    def _take(self, count: int, what: str) -> bytes:
        if count > len(self._data) - self._at:
            raise self._cut_off(self._at, count, what)
        self._at += count
        return self._data[self._at - count : self._at]

    def _cut_off(self, at: int, count: int, what: str) -> FormatError:
        left = f"{len(self._data) - at} bytes before the end"
        return self._error(f"{what} (the file is cut off)", left, f"{count} bytes")

    def _check_ids(self, bos: int, eos: list[int], count: int) -> None:
        for name, value in [("bos_id", bos), *(("eos id", value) for value in eos)]:
            if not (0 if name == "eos id" else -1) <= value < count:
                raise self._error(name, value, f"0 to {count - 1}")

    def _text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._error("chat template", f"not UTF-8 ({error.reason})", "UTF-8") from error

    def _error(self, field: str, found: object, expected: object) -> FormatError:
        return FormatError(self._path, field, found, expected)


def write_tokenizer(path: str | Path, data: TokenizerData) -> None:
    """Write a .t file atomically; OutputError if that fails."""
    path = Path(path)
    template = data.chat_template.encode() if data.chat_template else b""
    pairs = [
        (Key.VERSION, 1),
        (Key.VOCAB_SIZE, len(data.vocab)),
        (Key.MAX_TOKEN_LENGTH, max(1, *map(len, data.vocab))),
        *([(Key.BOS_ID, data.bos_id)] if data.bos_id >= 0 else []),
        *([(Key.CHAT_TEMPLATE, len(template))] if template else []),
        (Key.N_EOS_TOKENS, len(data.eos_ids)),
        (Key.ADD_BOS, int(data.add_bos)),
        *([] if data.prefix_space else [(Key.PREFIX_SPACE, 0)]),
    ]
    body = b"".join(struct.pack("<ii", key, value) for key, value in pairs)
    parts = [struct.pack("<Ii", MAGIC, 8 + len(body)), body, template]
    parts += [struct.pack("<i", token) for token in data.eos_ids]
    for token, score in zip(data.vocab, data.scores, strict=True):
        parts.append(struct.pack("<fI", score, len(token)) + token)
    _replace(path, b"".join(parts))


def _replace(path: Path, data: bytes) -> None:
    """Write to a temporary file and rename it, so that the path never holds half a file."""
    try:
        handle, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error
