"""The tokenizer of a model: text to ids and back, also one id at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer as HfTokenizer

from dllama.errors import ConfigError, ContextError, DllamaError, FormatError, ModelError
from dllama.git_lfs import refuse_pointer
from dllama.text.bpe import BYTE_NAME, ScoredBpe
from dllama.text.spelling import (
    byte_level_bytes,
    has_byte_fallback,
    is_byte_level,
    literal_ids,
    piece_bytes,
)
from dllama.text.tokenizer_config import (
    TokenizerConfig,
    read_special_tokens,
    read_tokenizer_config,
)
from dllama.text.tokenizer_file import TokenizerData, read_tokenizer

REPLACEMENT = "\ufffd"
USUAL = 8  # bytes; few texts have more in a token
PIECE = 1 << 16  # characters


class _Backend(Protocol):
    """Turns text into ids and back.

    Attributes:
        vocab_size: all ids are below it.
        special: ids that stand for no text.
        fallback: ids of single bytes, which are decoded together with their neighbours.
    """

    vocab_size: int
    special: frozenset[int]
    fallback: frozenset[int]

    def encode(self, text: str, whole: bool) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def name(self, token: int) -> str: ...
    def spell(self, token: int) -> bytes: ...


class Tokenizer:
    """Turns text into ids and ids into text.

    With a tokenizer.json, the ids are those of Hugging Face's `tokenizers`. With only a .t file,
    text is encoded by score (see bpe.py).

    Attributes:
        vocab_size: all ids are below it.
        bos_id: id that begins a text, or None.
        eos_ids: ids that end a text.
        add_bos: whether a text at the beginning of a context starts with BOS.
        chat_template: Jinja source, or None.
        special_tokens: texts of special tokens by their names in chat templates: bos_token,
            eos_token, and any others in tokenizer_config.json.
    """

    def __init__(
        self,
        backend: _Backend,
        *,
        bos_id: int | None = None,
        eos_ids: tuple[int, ...] = (),
        add_bos: bool = False,
        chat_template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self.vocab_size = backend.vocab_size
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self.add_bos = add_bos and bos_id is not None
        self.chat_template = chat_template
        ids = {"bos_token": bos_id, "eos_token": eos_ids[0] if eos_ids else None}
        names = {name: backend.name(i) for name, i in ids.items() if i is not None}
        self.special_tokens: dict[str, str] = {**names, **(special_tokens or {})}

    @classmethod
    def open(cls, path: str | Path) -> Tokenizer:
        """Open a .t file, or a folder (its tokenizer.json stands for the folder).

        A folder holds tokenizer.t, a single .t file of any name, or tokenizer.json with Hugging
        Face's config files. A tokenizer.json next to tokenizer.t does the encoding.

        Raises:
            ModelError: there is no tokenizer.
            FormatError: a file is broken, or the two files differ in their vocabulary.
        """
        path = Path(path)
        if path.name == "tokenizer.json" and path.is_file():
            path = path.parent
        file = _scored_file(path) if path.is_dir() else path
        if file is None:
            return cls._of_config(path / "tokenizer.json")
        data = read_tokenizer(file)
        fast = file.with_name("tokenizer.json")
        if file.name != "tokenizer.t" or not fast.is_file():
            return cls._of_data(_Scored(data), data, {})
        backend = _Fast(open_fast(fast))
        if backend.vocab_size != len(data.vocab):
            found, expected = f"{backend.vocab_size} tokens", f"{len(data.vocab)} as {file}"
            raise FormatError(fast, "vocabulary", found, expected)
        return cls._of_data(backend, data, read_special_tokens(file.parent))

    @classmethod
    def _of_data(
        cls, backend: _Backend, data: TokenizerData, special_tokens: Mapping[str, str]
    ) -> Tokenizer:
        """Create a tokenizer with the settings of a .t file."""
        return cls(
            backend,
            bos_id=data.bos_id if data.bos_id >= 0 else None,
            eos_ids=data.eos_ids,
            add_bos=data.add_bos,
            chat_template=data.chat_template,
            special_tokens=special_tokens,
        )

    @classmethod
    def _of_config(cls, path: Path) -> Tokenizer:
        """Create a tokenizer with the settings of Hugging Face's config files."""
        if not path.is_file():
            raise ModelError(f"{path.parent}: has no tokenizer.t and no tokenizer.json")
        fast = open_fast(path)
        count = max(fast.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        return cls.of(fast, read_tokenizer_config(path.parent, fast.token_to_id, count))

    @classmethod
    def of(cls, fast: HfTokenizer, config: TokenizerConfig) -> Tokenizer:
        """Create a tokenizer from one of the `tokenizers` library and its settings."""
        return cls(
            _Fast(fast),
            bos_id=config.bos_id,
            eos_ids=config.eos_ids,
            add_bos=config.add_bos is True or begins_with(fast, config.bos_id),
            chat_template=config.chat_template,
            special_tokens=config.special_tokens,
        )

    @classmethod
    def beside(cls, model: Path) -> Tokenizer | None:
        """Open the tokenizer in the folder of a model file, or return None if there is none.

        A .t file of any name belongs to the model if the folder has no other .m file.
        """
        folder = model.parent
        named = any((folder / name).is_file() for name in ("tokenizer.t", "tokenizer.json"))
        alone = len(list(folder.glob("*.m"))) == 1 and _scored_file(folder) is not None
        return cls.open(folder) if named or alone else None

    def encode(self, text: str, add_bos: bool | None = None, most: int | None = None) -> list[int]:
        """Encode a text; names of special tokens in it become their ids.

        Other threads go on meanwhile.

        Args:
            text: the text.
            add_bos: whether the ids begin with BOS. None treats the text as a whole: the ids are
                those of `tokenizers`, plus BOS if `self.add_bos` says so and the post-processor
                added none.
            most: how many ids are of use. A text that surely has more is not encoded as a whole.

        Raises:
            ConfigError: the text contains surrogates, or a character that the vocabulary cannot
                represent.
            ContextError: the text surely has more than `most` ids.
        """
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise ConfigError(f"the text is not valid Unicode at {error.start}") from error
        if most is not None and size > max(PIECE, USUAL * most):
            self._refuse_longer(text, size, most)
        ids = self._backend.encode(text, whole=add_bos is None)
        if (add_bos or (add_bos is None and self.add_bos)) and self.bos_id is not None:
            bos = [self.bos_id]
            return ids if add_bos is None and ids[:1] == bos else bos + ids
        return ids

    def _refuse_longer(self, text: str, size: int, most: int) -> None:
        """Raise ContextError if a text of `size` bytes surely has more than `most` ids.

        It takes time and memory for `most` ids, whatever the length. A text that is encoded in
        pieces has a few ids more at every cut, so only twice as many are sure.
        """
        count = 0
        for first in range(0, len(text), PIECE):
            if count > 2 * most or size > most * self._longest:
                raise ContextError(f"a text of {size} bytes has more than {most} tokens")
            count += len(self._backend.encode(text[first : first + PIECE], whole=False))

    @cached_property
    def _longest(self) -> int:
        """The number of bytes that a token can stand for."""
        return max(len(self.spell(token)) for token in range(self.vocab_size))

    def prompt_ids(self, text: str, begins: bool, most: int | None = None) -> list[int]:
        """Encode a prompt.

        Args:
            text: the prompt.
            begins: whether it begins a sequence. It may get a BOS then, and is one if it is empty.
            most: as for encode.

        Raises:
            ConfigError, ContextError: as for encode.
        """
        ids = self.encode(text, None if begins else False, most)
        return [self.bos_id] if not ids and begins and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids. Special tokens add no text; invalid UTF-8 becomes U+FFFD."""
        return self._backend.decode(ids)

    def name(self, token: int) -> str:
        """Return the name of an id in the vocabulary, or "" outside it."""
        return self._backend.name(token)

    def is_special(self, token: int) -> bool:
        """Whether an id stands for no text."""
        return token in self._backend.special

    def spell(self, token: int) -> bytes:
        """Return the bytes that an id adds to a text, which may be part of a character.

        These are the name of a special token, and b"" for an id outside the vocabulary.
        """
        return self._backend.spell(token)

    def stream(self) -> StreamDecoder:
        """Create a decoder that takes one id at a time."""
        return StreamDecoder(self._backend)


class StreamDecoder:
    """Decodes ids as they come. All texts joined equal decode() of all ids.

    It holds back text that a later id may still change: an incomplete character, and a run of byte
    tokens, which decoders treat as a whole.
    """

    def __init__(self, backend: _Backend) -> None:
        self._backend = backend
        self._ids: list[int] = []  # ids of the last text returned, and all later ids
        self._given = 0  # how many of them belong to the last text
        self._text = ""  # the last text
        self._in_run = False

    def push(self, token: int) -> str:
        """Add an id and return the text that is now certain."""
        self._ids.append(token)
        if token < self._backend.vocab_size and token not in self._backend.special:
            self._in_run = token in self._backend.fallback
        if self._in_run:
            return ""
        text = self._backend.decode(self._ids)
        return "" if text.endswith(REPLACEMENT) else self._advance(text)

    def flush(self) -> str:
        """Return the rest of the text; an incomplete character becomes U+FFFD."""
        self._in_run = False
        return self._advance(self._backend.decode(self._ids))

    def _advance(self, text: str) -> str:
        """Return the new part of the text of all ids.

        Ids before those of the last text are dropped. Those of the last text stay, because a
        decoder treats the beginning of a text differently.
        """
        new = text[len(self._text) :]
        if new:
            self._ids = self._ids[self._given :]
            self._given = len(self._ids)
            self._text = self._backend.decode(self._ids)
        return new


class _Fast:
    """Backend for the `tokenizers` library."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self._tokenizer = tokenizer
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        added = tokenizer.get_added_tokens_decoder()
        unused = set(range(self.vocab_size)).difference(vocab.values())
        special = (index for index, token in added.items() if token.special)
        self.special = frozenset(unused.union(special))
        self._literal = literal_ids(tokenizer)
        self._byte_level = is_byte_level(tokenizer)
        names = vocab if has_byte_fallback(tokenizer) else {}
        self.fallback = frozenset(
            index for name, index in names.items() if BYTE_NAME.fullmatch(name.encode())
        )

    def encode(self, text: str, whole: bool) -> list[int]:
        # `encode` would hold the GIL, and make offsets that nobody needs.
        return list(self._tokenizer.encode_batch_fast([text], add_special_tokens=whole)[0].ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def name(self, token: int) -> str:
        return self._tokenizer.id_to_token(token) or ""

    def spell(self, token: int) -> bytes:
        name = self.name(token)
        if token in self._literal:
            return name.encode()
        return byte_level_bytes(name) if self._byte_level else piece_bytes(name)


class _Scored:
    """Backend for a .t file alone."""

    fallback: frozenset[int] = frozenset()

    def __init__(self, data: TokenizerData) -> None:
        self._bpe = ScoredBpe(data)
        self._vocab = data.vocab
        self.vocab_size = len(data.vocab)
        self.special = self._bpe.special

    def encode(self, text: str, whole: bool) -> list[int]:
        return self._bpe.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._bpe.decode(ids)

    def name(self, token: int) -> str:
        return self._vocab[token].decode(errors="replace") if token < len(self._vocab) else ""

    def spell(self, token: int) -> bytes:
        return self._bpe.spell(token)


def _scored_file(folder: Path) -> Path | None:
    """Return a folder's tokenizer.t, or its only .t file if there is no tokenizer.json."""
    if (folder / "tokenizer.t").is_file():
        return folder / "tokenizer.t"
    found = sorted(folder.glob("*.t"))
    return found[0] if len(found) == 1 and not (folder / "tokenizer.json").is_file() else None


def begins_with(tokenizer: HfTokenizer, bos_id: int | None) -> bool:
    """Whether the tokenizer itself puts BOS before a text."""
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    return bos_id is not None and ids[:1] == [bos_id]


def open_fast(path: Path) -> HfTokenizer:
    """Open a tokenizer.json.

    Raises:
        ModelError: the file cannot be read, or is a Git LFS pointer.
        FormatError: the file is broken.
    """
    try:
        text = path.read_text(encoding="utf-8")
        refuse_pointer(text.encode(), path)
        json.loads(text)
        return HfTokenizer.from_str(text)
    except DllamaError:
        raise
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except Exception as error:  # the library raises plain Exception
        raise FormatError(path, "tokenizer", f"broken ({error})", "a tokenizer.json") from error
