"""Reads protobuf messages (https://protobuf.dev/programming-guides/encoding) with bounds checks."""

from __future__ import annotations

import struct
from collections.abc import Iterator

Value = int | bytes


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yield (number, value) of each field; values are integers or bytes.

    Raises:
        ValueError: the data is not a message.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field has wire type {wire}")
        if not 0 <= size <= len(data) - at:
            raise ValueError("a field is longer than what is left")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a variable-length integer of 64 bits and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the data is cut off")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            value &= (1 << 64) - 1
            return (value - (1 << 64) if value >= 1 << 63 else value), at
    raise ValueError("an integer is too long")


class Message:
    """The last value of each field of a message; ValueError for a value of another type."""

    def __init__(self, data: Value = b"") -> None:
        self._fields = dict(fields(_bytes(data)))

    def integer(self, number: int, default: int) -> int:
        """Return an integer or enum."""
        value = self._fields.get(number, default)
        if isinstance(value, bytes):
            raise ValueError(f"field {number} holds bytes, expected an integer")
        return value

    def flag(self, number: int, default: bool) -> bool:
        """Return a boolean."""
        return self.integer(number, default) != 0

    def data(self, number: int) -> bytes:
        """Return bytes; empty if the field is absent."""
        return _bytes(self._fields.get(number, b""))

    def text(self, number: int) -> str:
        """Return a string."""
        return self.data(number).decode()

    def real(self, number: int) -> float:
        """Return a 32-bit float; 0 if the field is absent."""
        if number not in self._fields:
            return 0.0
        data = self.data(number)
        if len(data) != 4:
            raise ValueError(f"field {number} has {len(data)} bytes, expected 4")
        return float(struct.unpack("<f", data)[0])


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("an integer where bytes are expected")
    return value
