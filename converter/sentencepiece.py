"""SentencePiece models (tokenizer.model) as `tokenizers` objects with the same ids.

Reads the few protobuf fields it needs (sentencepiece_model.proto) with bounds checks; the
model becomes a BPE or Unigram model without pre-tokenizer, so that merges see what
SentencePiece sees (Kudo and Richardson 2018).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
)

from dllama.errors import FormatError, ModelError, UnsupportedError

SPACE = "\u2581"
UNIGRAM, BPE = 1, 2


class PieceType(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says, with the defaults of its protobuf definition."""

    pieces: list[Piece]
    model_type: int
    bos_id: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


Field = tuple[int, int, int | bytes]


def read_sentencepiece(path: Path, add_bos: bool = True) -> Tokenizer:
    """The tokenizer of a tokenizer.model; add_bos: put its bos before every text.

    ModelError if it cannot be read, FormatError if it is broken, UnsupportedError for a word
    or character model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    try:
        model = _parse(data)
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise FormatError(path, "protobuf", f"broken ({error})", "a SentencePiece model") from error
    if not model.pieces:
        raise FormatError(path, "pieces", "none", "a vocabulary")
    if model.model_type not in (UNIGRAM, BPE):
        raise UnsupportedError(f"{path}: only BPE and unigram SentencePiece models are supported")
    return _build(model, add_bos)


def _parse(data: bytes) -> SentencePieceModel:
    """The fields of a ModelProto: 1 pieces, 2 trainer, 3 normalizer."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, _, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_message(value)))
        elif number == 2:
            trainer = {n: v for n, _, v in _fields(_message(value))}
        elif number == 3:
            normalizer = {n: v for n, _, v in _fields(_message(value))}
    return SentencePieceModel(
        pieces=pieces,
        model_type=_integer(trainer.get(3, UNIGRAM)),
        bos_id=_integer(trainer.get(41, 1)),
        charsmap=_message(normalizer.get(2, b"")),
        add_dummy_prefix=bool(_integer(normalizer.get(3, 1))),
        remove_extra_whitespaces=bool(_integer(normalizer.get(4, 1))),
    )


def _piece(data: bytes) -> Piece:
    """A piece: 1 text, 2 score, 3 type."""
    fields = {number: value for number, _, value in _fields(data)}
    score = struct.unpack("<f", _message(fields.get(2, b"\0\0\0\0")))[0]
    text = _message(fields.get(1, b"")).decode()
    return Piece(text, score, PieceType(_integer(fields.get(3, 1))))


def _fields(data: bytes) -> Iterator[Field]:
    """(number, wire type, value) of a message: integers, or bytes for all else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, wire, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("a field is longer than the file")
        yield tag >> 3, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the file is cut off")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
    else:
        raise ValueError("an integer is too long")
    return (value - (1 << 64) if value >= 1 << 63 else value), at


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("an integer where bytes are expected")
    return value


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes where an integer is expected")
    return value


def _build(model: SentencePieceModel, add_bos: bool) -> Tokenizer:
    """The same model in the terms of the `tokenizers` library."""
    tokenizer = Tokenizer(_bpe(model) if model.model_type == BPE else _unigram(model))
    tokenizer.normalizer = normalizers.Sequence(_normalizers(model))
    tokenizer.decoder = _decoder(model)
    special = (PieceType.CONTROL, PieceType.UNKNOWN)
    for piece in model.pieces:
        if piece.type in special:
            tokenizer.add_special_tokens([AddedToken(piece.text, normalized=False, special=True)])
        elif piece.type is PieceType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(piece.text, normalized=False, special=False)])
    if add_bos and 0 <= model.bos_id < len(model.pieces):
        bos = model.pieces[model.bos_id].text
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos_id)]
        )
    return tokenizer


def _unknown(model: SentencePieceModel) -> int | None:
    """The id of the piece for unknown characters."""
    types = [piece.type for piece in model.pieces]
    return types.index(PieceType.UNKNOWN) if PieceType.UNKNOWN in types else None


def _bpe(model: SentencePieceModel) -> models.BPE:
    """Merges in the order of the scores of what they make."""
    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    unknown = _unknown(model)
    return models.BPE(
        vocab=vocab,
        merges=_merges(model, vocab),
        unk_token=None if unknown is None else model.pieces[unknown].text,
        fuse_unk=True,
        byte_fallback=_has_bytes(model),
    )


def _merges(model: SentencePieceModel, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make a piece of two others, best score first."""
    normal = {piece.text for piece in model.pieces if piece.type is PieceType.NORMAL}
    found: list[tuple[float, int, str, str]] = []
    for piece in model.pieces:
        if piece.text not in normal:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in normal and right in normal:
                found.append((-piece.score, vocab[piece.text], left, right))
    found.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in found]


def _unigram(model: SentencePieceModel) -> models.Unigram:
    vocab = [(piece.text, piece.score) for piece in model.pieces]
    return models.Unigram(vocab, unk_id=_unknown(model), byte_fallback=_has_bytes(model))


def _has_bytes(model: SentencePieceModel) -> bool:
    return any(piece.type is PieceType.BYTE for piece in model.pieces)


def _normalizers(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    """What SentencePiece does to a text before it looks for pieces."""
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex("^ +| +$"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return steps


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    """Spaces and bytes back, and without the space that was put before the text."""
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)
