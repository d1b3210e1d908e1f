"""The bytes that token names in a tokenizer.json stand for.

`config` is always the parsed tokenizer.json.
"""

from __future__ import annotations

import json
from typing import Any


def is_byte_level(config: dict[str, Any]) -> bool:
    """Whether each character of a token name stands for one byte."""
    return '"ByteLevel"' in json.dumps([config.get("pre_tokenizer"), config.get("decoder")])


def literal_ids(config: dict[str, Any]) -> frozenset[int]:
    """Return the ids whose names are plain text, not an encoding of bytes."""
    byte_level = is_byte_level(config)
    added = config.get("added_tokens", [])
    return frozenset(entry["id"] for entry in added if byte_level or entry["special"])


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


def byte_level_table() -> dict[str, int]:
    """Map the printable characters of byte-level BPE to bytes (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_TABLE = byte_level_table()
