"""Llama 3's tokenizer.model in tiktoken's format: each line has a token in base64 and its rank.

Pairs merge in the order of the rank of what they produce, so every pair of tokens that forms a
token is a merge. The special tokens that follow are those of models/llama3/tokenizer.py of
github.com/meta-llama/llama-models. Llama 3.0 had other names for some.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from dllama.converter.tokenizers.byte_level import STYLES, build_bytelevel, characters_of, merges_of
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.errors import FormatError, ModelError
from dllama.git_lfs import refuse_pointer
from dllama.text.tokenizer_config import TokenizerConfig

LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+")
SPECIAL = 256
NAMES = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id",
    7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip
NEW_IN_3_1 = (4, 8, 10)
BOS, ENDS = 0, (1, 8, 9)


def is_tiktoken(path: Path) -> bool:
    """Whether a tokenizer.model has this format."""
    try:
        with path.open("rb") as file:
            line = file.readline(1024)
            refuse_pointer(line, path)
            return LINE.fullmatch(line.strip()) is not None
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def read_tiktoken(path: Path, old: bool) -> SourceTokenizer:
    """Read a file; ModelError or FormatError names it.

    Args:
        path: the file.
        old: whether it belongs to Llama 3.0.
    """
    ranks = _read_ranks(path)
    tokens, special = characters_of(ranks), _special_names(old)
    tokenizer = build_bytelevel(
        tokens + special,
        merges_of(ranks),
        STYLES["llama3"],
        special=special,
        bos_id=len(tokens) + BOS,
    )
    ends = tuple(len(tokens) + end for end in ENDS if not (old and end in NEW_IN_3_1))
    return SourceTokenizer(path, tokenizer, TokenizerConfig(len(tokens) + BOS, ends, None, None))


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Return the tokens with their ranks, which are their ids."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(filter(None, map(bytes.strip, lines))):
        token = _token(path, number, line)
        if token in ranks:
            raise FormatError(path, f"token of rank {number}", "given twice", "a new one")
        ranks[token] = number
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise FormatError(path, f"byte {missing[0]:#04x}", "missing", "a token")
    return ranks


def _token(path: Path, number: int, line: bytes) -> bytes:
    """Return the token of a line, whose rank must be the line's number."""
    try:
        if not LINE.fullmatch(line):
            raise ValueError("not base64 and a rank")
        token, rank = line.split()
        if int(rank) != number:
            raise ValueError(f"rank {int(rank)}")
        return base64.b64decode(token)
    except ValueError as error:
        expected = f"a token in base64 and rank {number}"
        raise FormatError(path, f"line {number + 1}", f"broken ({error})", expected) from error


def _special_names(old: bool) -> list[str]:
    """Return the special tokens; those without a name of their own are numbered."""
    names: list[str] = []
    reserved = 0
    for index in range(SPECIAL):
        if index in NAMES and not (old and index in NEW_IN_3_1):
            names.append(f"<|{NAMES[index]}|>")
        else:
            names.append(f"<|reserved_special_token_{reserved}|>")
            reserved += 1
    return names
