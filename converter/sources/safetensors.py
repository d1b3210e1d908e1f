"""Safetensors files (https://github.com/huggingface/safetensors)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllama.converter.sources.stored import ELEMENTS, MappedFile, MappedTensor
from dllama.errors import FormatError
from dllama.json_file import parse_json

MAX_HEADER = 100 << 20


class SafetensorsFile:
    """The tensors of a .safetensors file; FormatError if the header is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        self._size = len(self._file.data)
        self._header = self._header_size()
        self.tensors = dict(self._tensors())

    def _header_size(self) -> int:
        size = int.from_bytes(self._file.data[:8], "little")
        if self._size < 8 or size > min(MAX_HEADER, self._size - 8):
            raise FormatError(self.path, "header size", size, f"at most {self._size - 8}")
        return size

    def _tensors(self) -> Iterator[tuple[str, MappedTensor]]:
        """Yield all tensors in the header."""
        header = parse_json(self._file.data[8 : 8 + self._header], self.path)
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, self._tensor(name, entry)

    def _tensor(self, name: str, entry: Any) -> MappedTensor:
        """Create a tensor from an entry of the header and check that it lies within the file."""
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sizes = [*shape, begin, end]
        except (KeyError, TypeError, ValueError):
            sizes = [None]
        if not all(type(size) is int and size >= 0 for size in sizes) or type(dtype) is not str:
            raise FormatError(self.path, name, repr(entry), "dtype, shape and data_offsets")
        count = math.prod(shape)
        start = 8 + self._header
        # Other types are not an error: checkpoints may contain tensors that are not needed.
        nbytes = count * ELEMENTS[dtype].itemsize if dtype in ELEMENTS else end - begin
        if not end - begin == nbytes >= 0 or start + end > self._size:
            found = f"bytes {begin} to {end} of {self._size - start}"
            raise FormatError(self.path, name, found, f"{count} numbers of {dtype} in the file")
        return MappedTensor(self._file, name, dtype, tuple(shape), start + begin)
