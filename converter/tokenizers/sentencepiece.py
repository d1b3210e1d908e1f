"""SentencePiece models (tokenizer.model) as `tokenizers` objects with the same ids.

The protobuf definition is sentencepiece_model.proto of github.com/google/sentencepiece. A model
becomes a BPE or Unigram model without pre-tokenizer, so that merges see the same text as in
SentencePiece (Kudo and Richardson 2018).

In some cases the ids differ from SentencePiece's and equal those of Hugging Face's own conversion:

* Names of control pieces in a text, such as <s>, become their ids. The text after one gets a space
  in front, as if it began there, unless the style says no.
* If a character map (Llama models have none) changes a character with combining marks, the marks
  may be lost.
* Unigram models may resolve near ties differently.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from dllama.converter.tokenizers.charsmap import check_charsmap
from dllama.converter.tokenizers.protobuf import Message, fields
from dllama.errors import FormatError, ModelError, UnsupportedError
from dllama.git_lfs import refuse_pointer

SPACE = "\u2581"
UNIGRAM, BPE = 1, 2
# SentencePiece trains pieces of up to 16 characters. The time to split one is quadratic.
MAX_PIECE = 1024


class PieceType(IntEnum):
    """Kind of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    """A token."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """The fields of a tokenizer.model, with the defaults of its protobuf definition.

    Attributes:
        merges: of BPE, pairs of pieces, the best one first; empty if scores of pieces say them.
    """

    pieces: list[Piece]
    model_type: int
    bos_id: int
    suffix_space: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    decoding_charsmap: bytes
    merges: tuple[tuple[str, str], ...] = ()

    def texts(self, *types: PieceType) -> list[str]:
        """Return the pieces of some types."""
        return [piece.text for piece in self.pieces if piece.type in types]

    @property
    def space(self) -> str:
        """The character that stands for a space in the pieces."""
        return SPACE if self.escape_whitespaces else " "


@dataclass(frozen=True)
class Style:
    """How transformers uses a model, where that differs from SentencePiece.

    Attributes:
        add_bos: whether to put BOS before every text.
        llama: whether it is a LlamaTokenizer, which changes no character of a text.
        prefix_space: whether to put a space before a text, if the model does.
        legacy: whether to put it before the text after a special token too.
    """

    add_bos: bool = True
    llama: bool = False
    prefix_space: bool = True
    legacy: bool = True

    def applied(self, model: SentencePieceModel) -> SentencePieceModel:
        """Return the model as it is used."""
        prefix = model.add_dummy_prefix and self.prefix_space
        if not self.llama:
            return replace(model, add_dummy_prefix=prefix)
        return replace(model, charsmap=b"", remove_extra_whitespaces=False, add_dummy_prefix=prefix)


def read_sentencepiece(path: Path, style: Style | None = None) -> Tokenizer:
    """Read a tokenizer.model.

    Args:
        path: the file.
        style: how to use it. Default: as SentencePiece does, with BOS.

    Raises:
        ModelError: the file cannot be read, or is a Git LFS pointer.
        FormatError: it is broken.
        UnsupportedError: a tokenizer.json cannot represent the model.
    """
    try:
        data = path.read_bytes()
        refuse_pointer(data, path)
        model = parse(data)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(path, "protobuf", f"broken ({error})", "a SentencePiece model") from error
    return build_sentencepiece(path, model, style or Style())


def build_sentencepiece(path: Path, model: SentencePieceModel, style: Style) -> Tokenizer:
    """Build the tokenizer of a parsed model; raises the same errors as read_sentencepiece."""
    model = style.applied(model)
    try:
        _check_pieces(model)
        if model.charsmap:
            check_charsmap(model.charsmap)
    except ValueError as error:
        raise FormatError(
            path, "tokenizer", f"broken ({error})", "a SentencePiece model"
        ) from error
    _check_supported(path, model)
    return _build(model, style)


def parse(data: bytes) -> SentencePieceModel:
    """Return the fields of a ModelProto; ValueError if it is broken."""
    pieces: list[Piece] = []
    trainer, normalizer, denormalizer = Message(), Message(), Message()
    for number, value in fields(data):
        if number == 1:
            piece = Message(value)
            pieces.append(Piece(piece.text(1), piece.real(2), PieceType(piece.integer(3, 1))))
        elif number == 2:
            trainer = Message(value)
        elif number == 3:
            normalizer = Message(value)
        elif number == 5:
            denormalizer = Message(value)
    return SentencePieceModel(
        pieces=pieces,
        model_type=trainer.integer(3, UNIGRAM),
        bos_id=trainer.integer(41, 1),
        suffix_space=trainer.flag(24, False),
        charsmap=normalizer.data(2),
        add_dummy_prefix=normalizer.flag(3, True),
        remove_extra_whitespaces=normalizer.flag(4, True),
        escape_whitespaces=normalizer.flag(5, True),
        decoding_charsmap=denormalizer.data(2),
    )


def _check_pieces(model: SentencePieceModel) -> None:
    """Raise ValueError for a vocabulary that SentencePiece would also refuse."""
    for index, piece in enumerate(model.pieces):
        if not 0 < len(piece.text) <= MAX_PIECE:
            raise ValueError(f"piece {index} has {len(piece.text)} characters")
        if not math.isfinite(piece.score):
            raise ValueError(f"the score of piece {index} is {piece.score}")
    twice = [text for text, count in Counter(p.text for p in model.pieces).items() if count > 1]
    if twice:
        raise ValueError(f"piece {twice[0]!r} appears twice")
    if len(model.texts(PieceType.UNKNOWN)) != 1:
        raise ValueError(f"{len(model.texts(PieceType.UNKNOWN))} unknown pieces, expected 1")
    for name in model.texts(PieceType.BYTE):
        if not re.fullmatch("<0x[0-9A-F]{2}>", name):
            raise ValueError(f"byte piece {name!r}")


def _check_supported(path: Path, model: SentencePieceModel) -> None:
    """Raise UnsupportedError for what a tokenizer.json cannot represent."""
    if model.model_type not in (UNIGRAM, BPE):
        raise UnsupportedError(f"{path}: only BPE and unigram SentencePiece models are supported")
    if model.texts(PieceType.UNUSED):
        raise UnsupportedError(f"{path}: SentencePiece models with unused pieces are not supported")
    if model.suffix_space:
        raise UnsupportedError(f"{path}: treat_whitespace_as_suffix is not supported")
    if model.decoding_charsmap:
        raise UnsupportedError(f"{path}: a denormalizer is not supported")


def _build(model: SentencePieceModel, style: Style) -> Tokenizer:
    """Build the same model with the `tokenizers` library."""
    tokenizer = Tokenizer(_bpe(model) if model.model_type == BPE else _unigram(model))
    first_only = model.add_dummy_prefix and not style.legacy
    prefix = model.add_dummy_prefix and style.legacy
    if steps := _normalizers(replace(model, add_dummy_prefix=prefix)):
        tokenizer.normalizer = normalizers.Sequence(steps)
    splitters = [_first_space(model)] if first_only else []
    splitters += [splitter] if (splitter := _pre_tokenizer(model)) else []
    if splitters:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    tokenizer.decoder = _decoder(model)
    names = model.texts(PieceType.CONTROL, PieceType.UNKNOWN)
    special = [AddedToken(name, normalized=False, special=True) for name in names]
    tokenizer.add_special_tokens(special)
    if style.add_bos and 0 <= model.bos_id < len(model.pieces):
        bos = model.pieces[model.bos_id].text
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos_id)]
        )
    return tokenizer


def _first_space(model: SentencePieceModel) -> pre_tokenizers.PreTokenizer:
    """Put a space before a text, but not after special tokens in it."""
    return pre_tokenizers.Metaspace(model.space, prepend_scheme="first", split=False)


def _pre_tokenizer(model: SentencePieceModel) -> pre_tokenizers.PreTokenizer | None:
    """Split text where the library would otherwise do what SentencePiece does not.

    BPE takes user-defined pieces whole. Unigram would take the name of a byte in a text for the
    byte itself, unless the name is split.
    """
    if model.model_type == UNIGRAM:
        name = Regex("<(?=0x[0-9A-F]{2}>)")
        fallback = model.texts(PieceType.BYTE)
        return pre_tokenizers.Split(name, "merged_with_previous") if fallback else None
    symbols = sorted(model.texts(PieceType.USER_DEFINED), key=len, reverse=True)
    pattern = "|".join(map(_escape, symbols))
    return pre_tokenizers.Split(Regex(pattern), "isolated") if symbols else None


def _escape(text: str) -> str:
    """Return a pattern that matches a text, for Oniguruma, which takes code points."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _bpe(model: SentencePieceModel) -> models.BPE:
    """Order the merges by the scores of what they produce.

    User-defined pieces are split off before and taken whole (ignore_merges).
    """
    return models.BPE(
        vocab={piece.text: index for index, piece in enumerate(model.pieces)},
        merges=list(model.merges) or _merges(model),
        unk_token=model.texts(PieceType.UNKNOWN)[0],
        fuse_unk=True,
        byte_fallback=bool(model.texts(PieceType.BYTE)),
        ignore_merges=bool(model.texts(PieceType.USER_DEFINED)),
    )


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Return all pairs of pieces that form a piece, best score first.

    For one piece, the longest left half comes first. When a piece can be formed from either of two
    pairs, that is mostly the leftmost, which SentencePiece takes.
    """
    scores = {piece.text: piece.score for piece in model.pieces if piece.type is PieceType.NORMAL}
    found: list[tuple[float, str, str]] = []
    for text, score in scores.items():
        for cut in range(len(text) - 1, 0, -1):
            if (left := text[:cut]) in scores and (right := text[cut:]) in scores:
                found.append((-score, left, right))
    found.sort(key=lambda merge: merge[0])
    return [(left, right) for _, left, right in found]


def _unigram(model: SentencePieceModel) -> models.Unigram:
    types = [piece.type for piece in model.pieces]
    vocab = [(piece.text, piece.score) for piece in model.pieces]
    unknown, fallback = types.index(PieceType.UNKNOWN), PieceType.BYTE in types
    return models.Unigram(vocab, unk_id=unknown, byte_fallback=fallback)


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    """Return what SentencePiece does to a text before it looks for pieces."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(model.space))
    if model.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{model.space}+\z"), ""))
    return steps


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    """Restore spaces and bytes, and remove the space before the text."""
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
