"""Mistral's tekken.json: tokens in base64 by rank, after special tokens.

The format is that of mistral_common/tokens/tokenizers/tekken.py of
github.com/mistralai/mistral-common. Pairs merge as in tiktoken. An id is a special token's rank, or
the rank of another token plus the number of special tokens. Files of version v3, as that of Mistral
Nemo, do not list the special tokens: they have the names below, by rank.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dllama.checks import is_integer
from dllama.converter.tokenizers.byte_level import (
    Style,
    build_bytelevel,
    characters_of,
    merges_of,
)
from dllama.errors import FormatError
from dllama.json_file import read_json

FILE = "tekken.json"
BOS, EOS = "<s>", "</s>"
MOST = 1 << 20  # tokens
USUAL = (
    "<unk>", BOS, EOS, "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)  # fmt: skip


def read_tekken(path: Path) -> Tokenizer:
    """Read a tekken.json; ModelError or FormatError names it."""
    content = read_json(path)
    config = content.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("pattern"), str):
        raise FormatError(path, "config", repr(config)[:80], "an object with a pattern")
    size = _size(path, config, "default_vocab_size")
    count = _size(path, config, "default_num_special_tokens")
    special = _special(path, content.get("special_tokens"), count)
    ranks = _ranks(path, content.get("vocab"), size - count)
    tokens = special + characters_of(ranks)
    if len(set(tokens)) != len(tokens):
        raise FormatError(path, "vocab", "a special token", "other tokens")
    style = Style((config["pattern"],), ignore_merges=True)
    try:
        return build_bytelevel(
            tokens, merges_of(ranks), style, special=special, bos_id=special.index(BOS)
        )
    except Exception as error:  # the library raises plain Exception, for a pattern too
        raise FormatError(path, "tokenizer", f"broken ({error})", "a tekken tokenizer") from error


def _size(path: Path, config: dict[str, Any], key: str) -> int:
    if not is_integer(config.get(key), 1, MOST):
        raise FormatError(path, f"config.{key}", repr(config.get(key)), "a positive integer")
    return int(config[key])


def _special(path: Path, entries: object, count: int) -> list[str]:
    """Return the names of all special tokens. Those without one are numbered."""
    names = [f"<SPECIAL_{index}>" for index in range(count)]
    if entries is None:
        return [*USUAL[:count], *names[len(USUAL) :]]
    for entry in _entries(path, "special_tokens", entries):
        rank, name = entry.get("rank"), entry.get("token_str")
        if not is_integer(rank, 0, count - 1) or not isinstance(name, str) or not name:
            expected = f"a name and a rank below {count}"
            raise FormatError(path, "a special token", repr(entry)[:80], expected)
        names[rank] = name
    if BOS not in names:
        raise FormatError(path, "special_tokens", "without <s>", "one that begins a text")
    return names


def _ranks(path: Path, entries: object, count: int) -> dict[bytes, int]:
    """Return the first tokens with their ranks."""
    ranks: dict[bytes, int] = {}
    for number, entry in enumerate(_entries(path, "vocab", entries)):
        if number >= count:
            break
        try:
            token = base64.b64decode(entry["token_bytes"], validate=True)
            if entry["rank"] != number or not token or token in ranks:
                raise ValueError("its rank or its bytes are not new")
        except (KeyError, TypeError, ValueError) as error:
            expected = f"new bytes in base64, and rank {number}"
            raise FormatError(path, f"vocab[{number}]", f"broken ({error})", expected) from error
        ranks[token] = number
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing or len(ranks) < count:
        found = f"{len(ranks)} tokens"
        raise FormatError(path, "vocab", found, f"{count} tokens, all bytes among them")
    return ranks


def _entries(path: Path, name: str, entries: object) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FormatError(path, name, repr(entries)[:80], "a list of objects")
    yield from entries
