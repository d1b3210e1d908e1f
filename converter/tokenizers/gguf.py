"""The tokenizer in a GGUF file's metadata.

That is SentencePiece ("llama"), SentencePiece's pieces with merges ("gemma4"), or byte-level BPE
("gpt2").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from dllama.checks import is_flag
from dllama.converter.sources.gguf_header import typed
from dllama.converter.tokenizers.byte_level import STYLES, build_bytelevel
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.converter.tokenizers.sentencepiece import (
    BPE,
    SPACE,
    Piece,
    PieceType,
    SentencePieceModel,
    build_sentencepiece,
)
from dllama.converter.tokenizers.sentencepiece import (
    Style as SentencePieceStyle,
)
from dllama.errors import DllamaError, FormatError, UnsupportedError
from dllama.text.tokenizer_config import TokenizerConfig, by_tools

KEY = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
NO_ID = (-1, 0xFFFFFFFF)  # ids that say that there is none
# Keys after KEY that this module reads, and those that do not change what a text becomes.
READ = frozenset({
    "model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id",
    "eot_token_id", "eom_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix",
    "remove_extra_whitespaces", "precompiled_charsmap",
})  # fmt: skip
HARMLESS = frozenset({
    "seperator_token_id", "separator_token_id", "padding_token_id",
    "mask_token_id", "cls_token_id", "prefix_token_id", "suffix_token_id", "middle_token_id",
    "fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id",
    "fim_rep_token_id", "fim_sep_token_id",
})  # fmt: skip
# Keys that would put something after a text.
ADDING = ("add_eos_token", "add_sep_token")
# Tokens that end a text or a turn. Files often name only one of several.
ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>",
        "<｜end▁of▁sentence｜>", "<end_of_turn>", "<|return|>", "<|call|>", "<|end|>",
        "[|endofturn|]", "<turn|>")  # fmt: skip
# Kinds of tokenizers, and the ids of BOS and EOS if no key says others.
KINDS = {"llama": (1, 2), "gemma4": (2, 1), "gpt2": (None, None)}
# Tokens that end a text only if there is no other one: <|end|> ends a turn in Phi, and a message,
# of which an answer may have several, where there is a <|return|>.
UNLESS = {"<|end|>": "<|return|>"}


def read_tokenizer(path: Path, metadata: dict[str, Any]) -> SourceTokenizer:
    """Read the tokenizer of a file, which may be none.

    Raises:
        FormatError: the metadata is broken.
        UnsupportedError: the kind of tokenizer is not supported.
    """
    return _Reader(path, metadata).read()


class _Reader:
    """Reads keys of the metadata and checks their types."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        self._path = path
        self._metadata = metadata
        self._tokens: list[str] = []

    def read(self) -> SourceTokenizer:
        self._check_keys()
        kind = typed(self._metadata, KEY + "model", str, self._path, "none")
        if kind in ("none", "no_vocab"):
            return SourceTokenizer(self._path, None, TokenizerConfig(None, (), None, None))
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise UnsupportedError(
                f"{self._path}: tokenizer {kind!r} is not supported, only {known}"
            )
        self._tokens = self._list("tokens")
        bos_id, eos_id = KINDS[kind]
        tokenizer = self._bytelevel() if kind == "gpt2" else self._sentencepiece(kind)
        config = TokenizerConfig(
            bos_id=self._id("bos_token_id", bos_id),
            eos_ids=self._eos_ids(eos_id),
            add_bos=None,  # the tokenizer itself adds it
            chat_template=by_tools(
                typed(self._metadata, TEMPLATE, str, self._path),
                typed(self._metadata, f"{TEMPLATE}.tool_use", str, self._path),
            ),
        )
        return SourceTokenizer(self._path, tokenizer, config)

    def _check_keys(self) -> None:
        """Make sure that no key changes what a text becomes without being read."""
        names = {key.removeprefix(KEY) for key in self._metadata if key.startswith(KEY)}
        if names and "model" not in names:
            raise self._error("model", "missing", "a name, since there are other keys")
        for name in ADDING:
            if self._flag(name, False):
                raise UnsupportedError(f"{self._path}: {KEY}{name} is not supported, only false")
        for name in sorted(names - READ - HARMLESS - {*ADDING}):
            raise UnsupportedError(f"{self._path}: {KEY}{name} is not supported")

    def _sentencepiece(self, kind: str) -> Tokenizer:
        """Build a tokenizer from pieces with scores, or with merges."""
        gemma4 = kind == "gemma4"
        merges = self._merges() if gemma4 else []
        scores, types = self._numbers("scores", 0 if gemma4 else None), self._types()
        unknown = self._id("unknown_token_id", 3 if gemma4 else 0)
        if PieceType.UNKNOWN not in types and unknown is not None:
            types[unknown] = PieceType.UNKNOWN  # files may call it a control token
        pieces = [
            Piece(_spelled(text) if kind is PieceType.USER_DEFINED else text, score, kind)
            for text, score, kind in zip(self._tokens, scores.tolist(), types, strict=True)
        ]
        charsmap = self._metadata.get(KEY + "precompiled_charsmap")
        bos_id = self._id("bos_token_id", KINDS[kind][0])
        model = SentencePieceModel(
            pieces=pieces,
            model_type=BPE,
            bos_id=-1 if bos_id is None else bos_id,
            suffix_space=False,
            charsmap=charsmap.tobytes() if isinstance(charsmap, np.ndarray) else b"",
            add_dummy_prefix=self._flag("add_space_prefix", not gemma4),
            remove_extra_whitespaces=self._flag("remove_extra_whitespaces", False),
            escape_whitespaces=True,
            decoding_charsmap=b"",
            merges=tuple(merges),
        )
        style = SentencePieceStyle(add_bos=self._flag("add_bos_token", True))
        try:
            return build_sentencepiece(self._path, model, style)
        except Exception as error:  # the library raises plain Exception
            if isinstance(error, DllamaError):
                raise
            raise self._error("merges", f"broken ({error})", "pairs of tokens") from error

    def _merges(self) -> list[tuple[str, str]]:
        """Return the pairs of tokens that merge; the first one may begin with a space."""
        found = [(one[:1] + left, right) for one in self._list("merges")
                 for left, _, right in [one[1:].partition(" ")]]  # fmt: skip
        if not found:
            raise self._error("merges", "empty", "pairs of tokens")
        return found

    def _bytelevel(self) -> Tokenizer:
        """Build a tokenizer from tokens and merges."""
        pre = typed(self._metadata, KEY + "pre", str, self._path)
        if pre is None or pre not in STYLES:
            raise UnsupportedError(
                f"{self._path}: pre-tokenizer {pre!r} is not supported, only {', '.join(STYLES)}"
            )
        style, types = STYLES[pre], self._types()
        merges = [tuple(merge.split(" ")) for merge in self._list("merges")]
        bos_id = self._id("bos_token_id", None)
        of_type = {
            kind: [token for token, other in zip(self._tokens, types, strict=True) if other is kind]
            for kind in PieceType
        }
        try:
            return build_bytelevel(
                self._tokens,
                merges,  # type: ignore[arg-type]  # the library refuses other lengths
                style,
                special=of_type[PieceType.CONTROL] + of_type[PieceType.UNKNOWN],
                added=of_type[PieceType.USER_DEFINED],
                bos_id=bos_id if self._flag("add_bos_token", style.add_bos) else None,
            )
        except Exception as error:  # the library raises plain Exception
            raise self._error("merges", f"broken ({error})", "pairs of tokens") from error

    def _types(self) -> list[PieceType]:
        """Return the type of each token; padding of the vocabulary counts as control tokens."""
        numbers = self._numbers("token_type", PieceType.NORMAL)
        kinds = {int(kind): kind for kind in PieceType}
        kinds[PieceType.UNUSED] = PieceType.CONTROL
        try:
            return [kinds[number] for number in numbers.tolist()]
        except KeyError as error:
            found = f"broken ({error.args[0]} is no type)"
            raise self._error("token_type", found, "1 to 6") from error

    def _eos_ids(self, default: int | None) -> tuple[int, ...]:
        """Return the ids that end a text: those in the metadata, and tokens with a known name."""
        named = [self._id("eos_token_id", default)]
        named += [self._id(f"{key}_token_id", None) for key in ("eot", "eom")]
        types = self._types()
        named += [
            index
            for index, token in enumerate(self._tokens)
            if token in ENDS
            and types[index] is not PieceType.NORMAL
            and UNLESS.get(token) not in self._tokens
        ]
        return tuple(dict.fromkeys(index for index in named if index is not None))

    def _id(self, key: str, default: int | None) -> int | None:
        value = self._metadata.get(KEY + key, default)
        if value is None or (type(value) is int and value in NO_ID):
            return None
        if type(value) is not int or not 0 <= value < len(self._tokens):
            raise self._error(key, repr(value), f"a token id below {len(self._tokens)}")
        return value

    def _flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(KEY + key, default)
        if not is_flag(value):
            raise self._error(key, repr(value), "true or false")
        return value

    def _list(self, key: str) -> list[str]:
        value = self._metadata.get(KEY + key)
        if not isinstance(value, list):
            raise self._error(
                key, "missing" if value is None else "not a list", "a list of strings"
            )
        return value

    def _numbers(self, key: str, default: int | None) -> np.ndarray[Any, Any]:
        """Return a number for each token; without the key, all are the default."""
        value = self._metadata.get(KEY + key)
        if value is None and default is not None:
            return np.full(len(self._tokens), default)
        if not isinstance(value, np.ndarray) or len(value) != len(self._tokens):
            found = "missing" if value is None else "not one number per token"
            raise self._error(key, found, f"{len(self._tokens)} numbers")
        return value

    def _error(self, key: str, found: str, expected: str) -> FormatError:
        return FormatError(self._path, KEY + key, found, expected)


def _spelled(text: str) -> str:
    """A piece as SentencePiece spells it: llama.cpp's converter writes spaces."""
    return text.replace(" ", SPACE)
