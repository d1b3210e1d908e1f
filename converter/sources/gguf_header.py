"""The header of GGUF files: metadata, and where the tensors are.

The format is described in docs/gguf.md of github.com/ggml-org/ggml. Counts and lengths are checked
against the size of the file before memory is allocated for them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dllama.converter.sources.stored import MappedFile
from dllama.errors import FormatError, UnsupportedError
from dllama.model.formats import GGUF_MAGIC

Value = TypeVar("Value")

VERSIONS = (2, 3)
SWAPPED = (GGUF_MAGIC[::-1], *(GGUF_MAGIC + version.to_bytes(4, "big") for version in VERSIONS))
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
SCALARS = {
    number: np.dtype(code)
    for number, code in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8",
        11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the header.

    Attributes:
        name: GGUF's name.
        shape: rows first.
        type: ggml's type number.
        begin: offset in the file, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    begin: int


@dataclass(frozen=True)
class GgufHeader:
    """The contents of a header.

    Attributes:
        metadata: values by key: int, float, bool, str, list of str, or NumPy array.
        tensors: in the order of the file.
    """

    metadata: dict[str, Any]
    tensors: list[TensorEntry]


def read_header(file: MappedFile) -> GgufHeader:
    """Read a header.

    Raises:
        FormatError: it is broken.
        UnsupportedError: the version of the format is not supported.
    """
    return _Reader(file).read()


def typed(
    metadata: dict[str, Any], key: str, kind: type[Value], path: Path, default: Value | None = None
) -> Value | None:
    """Return a value of the metadata, or the default; FormatError if it has another type."""
    value = metadata.get(key)
    if value is not None and type(value) is not kind:
        raise FormatError(path, key, f"a {type(value).__name__}", f"a {kind.__name__}")
    return default if value is None else value


class _Reader:
    """Parses a header from front to back."""

    def __init__(self, file: MappedFile) -> None:
        self._path: Path = file.path
        self._data = file.data
        self._at = 0

    def read(self) -> GgufHeader:
        if self._data[:8].startswith(SWAPPED):
            raise UnsupportedError(
                f"{self._path}: is a big-endian GGUF file, only little-endian ones can be read"
            )
        if self._take(4) != GGUF_MAGIC:
            raise self._error("magic", bytes(self._data[:4]), GGUF_MAGIC)
        version = self._number("<I")
        if version not in VERSIONS:
            raise UnsupportedError(f"{self._path}: GGUF version {version} is not supported")
        tensors, pairs = self._count(8), self._count(8)
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text()
            if key in metadata:
                raise self._error(f"key {key!r}", "given twice", "once")
            metadata[key] = self._value(self._number("<I"), key)
        entries = list(self._entries(tensors))
        alignment = self._alignment(metadata)
        base = -(-self._at // alignment) * alignment
        for entry in entries:
            if entry.begin % alignment:
                expected = f"a multiple of {alignment}"
                raise self._error(f"offset of {entry.name}", entry.begin, expected)
        moved = [TensorEntry(e.name, e.shape, e.type, base + e.begin) for e in entries]
        return GgufHeader(metadata, moved)

    def _entries(self, count: int) -> Iterator[TensorEntry]:
        """Yield the tensors; `begin` is relative to the first one."""
        names = set()
        for _ in range(count):
            name = self._text()
            if name in names:
                raise self._error(f"tensor {name}", "given twice", "once")
            names.add(name)
            dimensions = self._number("<I")
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise self._error(f"dimensions of {name}", dimensions, f"1 to {MAX_DIMENSIONS}")
            shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
            if not 0 < math.prod(shape) < 1 << 62:
                raise self._error(f"shape of {name}", shape, "sizes that fit in a file")
            kind, offset = struct.unpack("<IQ", self._take(12))
            yield TensorEntry(name, tuple(reversed(shape)), kind, offset)

    def _value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self._text()
        if kind in SCALARS:
            return self._array(SCALARS[kind], 1)[0].item()
        if kind != ARRAY:
            raise self._error(f"type of {key}", kind, "0 to 12")
        inner = self._number("<I")
        if inner == STRING:
            return self._texts(self._count(8))
        if inner not in SCALARS:
            raise UnsupportedError(f"{self._path}: {key} is an array of type {inner}")
        return self._array(SCALARS[inner], self._count(SCALARS[inner].itemsize))

    def _array(self, dtype: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _alignment(self, metadata: dict[str, Any]) -> int:
        """Return what the offsets of tensors are multiples of."""
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise self._error("general.alignment", alignment, "a positive integer")
        return alignment

    def _text(self) -> str:
        data = self._take(self._count(1))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._error(
                f"string at {self._at}", f"not UTF-8 ({error.reason})", "UTF-8"
            ) from error

    def _texts(self, count: int) -> list[str]:
        """Read strings; those of a vocabulary are so many that calls for each would be slow."""
        data, at, texts = self._data, self._at, []
        try:
            for _ in range(count):
                (size,) = LENGTH.unpack_from(data, at)
                text = data[at + 8 : at + 8 + size]
                if len(text) < size:
                    break
                texts.append(text.decode())
                at += 8 + size
        except (struct.error, UnicodeDecodeError, OverflowError):
            pass
        if len(texts) < count:  # read them again, for the error
            return [self._text() for _ in range(count)]
        self._at = at
        return texts

    def _count(self, least: int) -> int:
        """Read a count of things that take at least `least` bytes each; FormatError if they do not
        fit.
        """
        count = self._number("<Q")
        if count * least > len(self._data) - self._at:
            left = len(self._data) - self._at
            found = f"{count} items of at least {least} bytes" if least > 1 else f"{count} bytes"
            raise self._error(
                f"length at byte {self._at - 8}", found, f"at most {left} bytes (the file is cut "
                "off or broken)"
            )  # fmt: skip
        return count

    def _number(self, code: str) -> int:
        return int(struct.unpack(code, self._take(struct.calcsize(code)))[0])

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            left = f"{len(self._data) - self._at} bytes before the end"
            raise self._error("header (the file is cut off)", left, f"{count} bytes")
        self._at += count
        return self._data[self._at - count : self._at]

    def _error(self, field: str, found: object, expected: object) -> FormatError:
        return FormatError(self._path, field, found, expected)
