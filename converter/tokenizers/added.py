"""Tokens that a Hugging Face folder adds to its tokenizer.model or tokenizer.json.

They are in added_tokens_decoder of tokenizer_config.json, or in added_tokens.json in older folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from dllama.checks import is_integer
from dllama.errors import FormatError, UnsupportedError
from dllama.json_file import read_json_if_any

FILE = "added_tokens.json"
CONFIG, DECODER = "tokenizer_config.json", "added_tokens_decoder"
FLAGS = ("lstrip", "rstrip", "single_word", "special")


def add_unknown_tokens(folder: Path, tokenizer: Tokenizer) -> bool:
    """Add the tokens of a folder that its tokenizer.json does not have.

    Those that it has are as it says: the other files may be older.

    Returns:
        Whether there are any.

    Raises:
        FormatError, UnsupportedError, ModelError: as for add_tokens.
    """
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    unknown = {
        index: token
        for index, token in _tokens(folder).items()
        if token.content not in known and tokenizer.token_to_id(token.content) in (None, index)
    }
    _add(unknown, folder, tokenizer)
    return bool(unknown)


def add_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Add the tokens of a folder to its tokenizer.

    Raises:
        FormatError: a file is broken, or two say different things.
        UnsupportedError: an id is taken by another token, or would leave a gap.
        ModelError: a file cannot be read.
    """
    _add(_tokens(folder), folder, tokenizer)


def _add(tokens: dict[int, AddedToken], folder: Path, tokenizer: Tokenizer) -> None:
    """Add tokens with these ids."""
    for index, token in sorted(tokens.items()):
        known = tokenizer.token_to_id(token.content)
        place = index if known is not None else tokenizer.get_vocab_size(with_added_tokens=True)
        if (place if known is None else known) != index:
            what = f"token {token.content!r} has the id {index}"
            found = f"its id in the model is {known}" if known is not None else f"{place} is next"
            raise UnsupportedError(f"{folder}: {what}, but {found}")
        tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])


def _tokens(folder: Path) -> dict[int, AddedToken]:
    """Return the added tokens by id. What tokenizer_config.json says about one counts."""
    found = dict(_plain(folder / FILE))
    decoder = read_json_if_any(folder / CONFIG).get(DECODER) or {}
    if not isinstance(decoder, dict):
        raise FormatError(folder / CONFIG, DECODER, repr(decoder), "an object")
    for key, entry in decoder.items():
        token = _described(folder / CONFIG, key, entry)
        other = found.get(int(key))
        if other is not None and other.content != token.content:
            raise FormatError(folder / FILE, f"token {key}", repr(other.content), token.content)
        found[int(key)] = token
    return found


def _plain(path: Path) -> list[tuple[int, AddedToken]]:
    """Return the tokens of an added_tokens.json. Names such as <|im_end|> stand for no text."""
    tokens = []
    for name, index in read_json_if_any(path).items():
        if not is_integer(index, 0) or not name:
            raise FormatError(path, repr(name), repr(index), "a token id")
        special = name.startswith("<") and name.endswith(">")
        tokens.append((index, AddedToken(name, normalized=False, special=special)))
    return tokens


def _described(path: Path, key: str, entry: Any) -> AddedToken:
    """Return a token of added_tokens_decoder."""
    content = entry.get("content") if isinstance(entry, dict) else None
    if not key.isdecimal() or not isinstance(content, str) or not content:
        raise FormatError(path, f"{DECODER}.{key}", repr(entry), "a token with its content")
    flags = {name: entry.get(name) is True for name in FLAGS}
    return AddedToken(content, normalized=False, **flags)
