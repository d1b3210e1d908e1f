"""The bytes that token names in a tokenizer.json stand for."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import Decoder
from tokenizers.pre_tokenizers import PreTokenizer


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether each character of a token name stands for one byte."""
    return b'"ByteLevel"' in _state(tokenizer.pre_tokenizer) + _state(tokenizer.decoder)


def has_byte_fallback(tokenizer: Tokenizer) -> bool:
    """Whether tokens such as <0x41> are decoded to bytes."""
    return b'"ByteFallback"' in _state(tokenizer.decoder)


def literal_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids whose names are plain text, not an encoding of bytes."""
    byte_level, added = is_byte_level(tokenizer), tokenizer.get_added_tokens_decoder()
    return frozenset(index for index, token in added.items() if byte_level or token.special)


def byte_level_bytes(name: str) -> bytes:
    """Return the bytes of a byte-level token; characters outside the table stand for themselves."""
    return b"".join(bytes([_TABLE[c]]) if c in _TABLE else c.encode() for c in name)


def piece_bytes(name: str) -> bytes:
    """Return the bytes of a SentencePiece token: <0xNN> is a byte, U+2581 a space."""
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        try:
            return bytes([int(name[3:5], 16)])
        except ValueError:
            pass
    return name.replace("\u2581", " ").encode()


def _state(part: PreTokenizer | Decoder | None) -> bytes:
    """Return what tokenizer.json says of a part; all of the file takes long, and much memory."""
    return bytes(part.__getstate__()) if part is not None else b""


def byte_level_table() -> dict[str, int]:
    """Map the printable characters of byte-level BPE to bytes (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_TABLE = byte_level_table()
