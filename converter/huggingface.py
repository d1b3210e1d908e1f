"""Hugging Face folders: config.json and safetensors files, read by mmap in runs of rows."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.errors import FormatError, ModelError

# Elements per dtype of a safetensors file; bfloat16 is read as its bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
MAX_HEADER = 100 << 20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file; begin is its offset in the file in bytes.

    Rows can be read of those whose dtype is in DTYPES.
    """

    file: SafetensorsFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def bf16(self) -> bool:
        """Whether the numbers are bfloat16 bits in uint16."""
        return self.dtype == "BF16"

    def part(self, index: int, count: int) -> StoredTensor:
        """One of `count` equal runs of the rows, where all axes but the last count as rows.

        The tensor itself if count is 1; FormatError where it cannot be cut so.
        """
        if count == 1:
            return self
        rows = math.prod(self.shape[:-1])
        if len(self.shape) < 2 or rows % count:
            raise FormatError(
                self.file.path, f"shape of {self.name}", self.shape, f"{count} equal parts"
            )
        shape = (rows // count, self.shape[-1])
        begin = self.begin + index * math.prod(shape) * DTYPES[self.dtype].itemsize
        return StoredTensor(self.file, self.name, self.dtype, shape, begin)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Rows first to first + count, a view of the file: (count, columns) or (count,)."""
        width = math.prod(self.shape[1:])
        dtype = DTYPES[self.dtype]
        begin = self.begin + first * width * dtype.itemsize
        flat = np.frombuffer(self.file.data, dtype, count * width, begin)
        return flat.reshape(count, *self.shape[1:])

    def release(self) -> None:
        """Give back the memory of the tensor's pages."""
        nbytes = math.prod(self.shape) * DTYPES[self.dtype].itemsize
        begin = -(-self.begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = self.begin + nbytes - begin
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.file.data.madvise(mmap.MADV_DONTNEED, begin, length)


class SafetensorsFile:
    """A mapped .safetensors file; FormatError if its header does not describe it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot read: {error}") from error
        self.header_size = self._header_size()
        self.tensors = dict(self._tensors())

    def _header_size(self) -> int:
        size = int.from_bytes(self.data[:8], "little")
        if len(self.data) < 8 or size > min(MAX_HEADER, len(self.data) - 8):
            raise FormatError(self.path, "header size", size, f"at most {len(self.data) - 8}")
        return size

    def _tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        """All tensors that the header names."""
        header = parse_json(self.data[8 : 8 + self.header_size], self.path)
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, self._tensor(name, entry)

    def _tensor(self, name: str, entry: Any) -> StoredTensor:
        """One entry of the header, checked against the size of the file."""
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            sizes = [*shape, begin, end]
        except (KeyError, TypeError, ValueError):
            sizes = [None]
        if not all(type(size) is int and size >= 0 for size in sizes) or type(dtype) is not str:
            raise FormatError(self.path, name, repr(entry), "dtype, shape and data_offsets")
        count = math.prod(shape)
        start = 8 + self.header_size
        # Others are no mistake: checkpoints hold tensors that a model does not need.
        nbytes = count * DTYPES[dtype].itemsize if dtype in DTYPES else end - begin
        if not end - begin == nbytes >= 0 or start + end > len(self.data):
            found = f"bytes {begin} to {end} of {len(self.data) - start}"
            raise FormatError(self.path, name, found, f"{count} numbers of {dtype} in the file")
        return StoredTensor(self, name, dtype, tuple(shape), start + begin)


class HuggingFaceFolder:
    """A folder with config.json and model.safetensors, or shards with an index file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ModelError(f"{self.path}: no such folder")
        self.config_path = self.path / "config.json"
        if not self.config_path.is_file():
            raise ModelError(f"{self.path}: holds no config.json, expected a Hugging Face folder")
        self.config = read_json(self.config_path)
        self.tensors = self._read_tensors()

    def _read_tensors(self) -> dict[str, StoredTensor]:
        """All tensors by name, from one file or from all files of the index."""
        index = self.path / "model.safetensors.index.json"
        if not index.is_file():
            path = self.path / "model.safetensors"
            if not path.is_file():
                raise ModelError(f"{self.path}: holds neither {path.name} nor {index.name}")
            return SafetensorsFile(path).tensors
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(file, str) for file in weight_map.values()
        ):
            raise FormatError(index, "weight_map", "broken", "files by the names of tensors")
        files = {name: self._shard(index, name) for name in sorted(set(weight_map.values()))}
        return {name: self._indexed(index, name, files[file]) for name, file in weight_map.items()}

    def _shard(self, index: Path, name: str) -> SafetensorsFile:
        path = self.path / name
        if Path(name).name != name or not path.is_file():
            raise ModelError(f"{index}: names the file {name!r}, which is not in the folder")
        return SafetensorsFile(path)

    def _indexed(self, index: Path, name: str, file: SafetensorsFile) -> StoredTensor:
        if name not in file.tensors:
            raise FormatError(index, name, f"not in {file.path.name}", "a tensor of that file")
        return file.tensors[name]


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; ModelError or FormatError that name it."""
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that the bytes hold."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, "JSON", f"broken ({error})", "an object") from error
    if not isinstance(value, dict):
        raise FormatError(path, "JSON", type(value).__name__, "an object")
    return value
