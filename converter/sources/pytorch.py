"""PyTorch's checkpoints (.bin, .pth): archives of a pickle and the numbers of its tensors.

This is the format of torch.save since PyTorch 1.6 (torch/serialization.py): an uncompressed zip
file with NAME/data.pkl and a file NAME/data/KEY for each storage.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dllama.converter.sources import unpickler
from dllama.converter.sources.stored import DTYPES, MappedFile, MappedTensor
from dllama.converter.sources.unpickler import Tensor
from dllama.errors import FormatError, ModelError, UnsupportedError

MAX_PICKLE = 64 << 20
LOCAL_HEADER = struct.Struct("<4s22xHH")


class PytorchFile:
    """The tensors of a checkpoint. No code in the pickle is run (see unpickler.py).

    Raises:
        FormatError: the file is broken.
        UnsupportedError: it has the format before PyTorch 1.6, or is big-endian.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        self._entries = self._read_entries()
        self._root = self._find_root()
        self._check_byte_order()
        self.tensors = dict(self._tensors())

    def _read_entries(self) -> dict[str, zipfile.ZipInfo]:
        """Return the files of the archive by name."""
        if self._file.data[:4] != b"PK\x03\x04":
            raise UnsupportedError(
                f"{self.path}: not a zip archive; a checkpoint from before PyTorch 1.6 must be "
                "saved again with a newer version"
            )
        try:
            with zipfile.ZipFile(self.path) as archive:
                return {entry.filename: entry for entry in archive.infolist()}
        except OSError as error:
            raise ModelError(f"{self.path}: cannot read: {error}") from error
        except Exception as error:  # zipfile raises several unrelated classes
            raise self._broken("archive", f"broken ({error})", "a zip archive") from error

    def _find_root(self) -> str:
        """Return the folder in the archive that contains everything, with a slash."""
        roots = [
            name.removesuffix("data.pkl") for name in self._entries if name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise self._broken("archive", f"{len(roots)} files data.pkl", "one")
        return roots[0]

    def _check_byte_order(self) -> None:
        """Raise UnsupportedError for big-endian numbers."""
        name = self._root + "byteorder"
        if name in self._entries and bytes(self._bytes(name)) != b"little":
            raise UnsupportedError(f"{self.path}: its numbers are not little-endian")

    def _bytes(self, name: str) -> memoryview:
        """Return a view of a file of the archive."""
        begin, size = self._extent(name)
        return memoryview(self._file.data)[begin : begin + size]

    def _extent(self, name: str) -> tuple[int, int]:
        """Return where a file of the archive begins, and its size in bytes."""
        entry = self._entries.get(name)
        if entry is None:
            raise self._broken(name, "missing", "a file of the archive")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise self._broken(name, "compressed", "uncompressed data")
        at, data = entry.header_offset, self._file.data
        header = data[at : at + LOCAL_HEADER.size]
        if len(header) != LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise self._broken(name, f"not at {at}", "a file of the archive")
        _, name_size, extra_size = LOCAL_HEADER.unpack(header)
        begin = at + LOCAL_HEADER.size + name_size + extra_size
        if begin + entry.file_size > len(data):
            raise self._broken(name, "cut off", f"{entry.file_size} bytes")
        return begin, entry.file_size

    def _tensors(self) -> Iterator[tuple[str, MappedTensor]]:
        """Yield all tensors of the pickled dict, or of a dict "model" or "state_dict" in it."""
        values = self._unpickle()
        for key in ("state_dict", "model"):
            if isinstance(values.get(key), dict):
                values = values[key]
        for name, value in values.items():
            if isinstance(value, Tensor):
                yield str(name), self._tensor(str(name), value)

    def _unpickle(self) -> dict[Any, Any]:
        data = self._bytes(self._root + "data.pkl")
        if len(data) > MAX_PICKLE:
            raise self._broken("data.pkl", f"{len(data)} bytes", f"at most {MAX_PICKLE}")
        try:
            values = unpickler.load(bytes(data))
        except (ValueError, MemoryError) as error:
            raise self._broken("data.pkl", f"refused ({error})", "a dict of tensors") from error
        if not isinstance(values, dict):
            raise self._broken("data.pkl", f"a {type(values).__name__}", "a dict of tensors")
        return values

    def _tensor(self, name: str, tensor: Tensor) -> MappedTensor:
        """Create a tensor and check that it lies within its storage."""
        dtype = tensor.storage.dtype
        if dtype not in DTYPES:  # an error only if the tensor is needed
            return MappedTensor(self._file, name, dtype, tensor.shape, 0)
        if not _contiguous(tensor):
            raise UnsupportedError(f"{self.path}: the rows of {name} are not contiguous")
        begin, size = self._extent(f"{self._root}data/{tensor.storage.key}")
        item = DTYPES[dtype].itemsize
        count, offset = math.prod(tensor.shape), tensor.offset
        if tensor.storage.count * item != size or offset + count > tensor.storage.count:
            found = f"{count} numbers of {dtype} at {offset} in {size} bytes"
            raise self._broken(name, found, f"{tensor.storage.count} numbers in the storage")
        return MappedTensor(self._file, name, dtype, tensor.shape, begin + offset * item)

    def _broken(self, field: str, found: str, expected: str) -> FormatError:
        return FormatError(self.path, field, found, expected)


def _contiguous(tensor: Tensor) -> bool:
    """Whether the rows follow each other without gaps."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
