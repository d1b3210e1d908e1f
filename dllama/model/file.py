"""Model files (.m): a header and the tensors after it, read by mmap and written as a stream."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama._kernels import searched
from dllama._kernels import weight_types as quants
from dllama.errors import FormatError, ModelError, OutputError
from dllama.model.header import MAX_HEADER, read_header, write_header
from dllama.model.spec import ModelSpec
from dllama.model.stored_model import StoredModel, decode
from dllama.model.tensors import Tensor, all_tensors
from dllama.model.weight_types import WeightType

Rows = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]


@dataclass(frozen=True)
class TensorInfo(Tensor):
    """A tensor of a model file, which begins after `offset` bytes."""

    offset: int


def tensor_table(spec: ModelSpec, header_size: int) -> dict[str, TensorInfo]:
    """All tensors of a model file by name, in the order of the file."""
    table: dict[str, TensorInfo] = {}
    offset = header_size
    for tensor in all_tensors(spec):
        table[tensor.name] = TensorInfo(tensor.name, tensor.shape, tensor.weight_type, offset)
        offset += tensor.nbytes
    return table


def encode(
    array: Rows,
    weight_type: WeightType,
    threads: int = 1,
    bf16: bool = False,
    importance: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Encode an array as a model file stores it.

    Args:
        array: float32 or float16; with bf16, bfloat16 bits in uint16.
        weight_type: how to store the numbers.
        threads: how many threads encode.
        bf16: whether the array holds bfloat16 bits.
        importance: float32 (columns,) of a matrix, how much squared errors in each column count;
            None: all count alike, and q40 is what distributed-llama's converter makes of it.

    Returns:
        uint8 (bytes,).

    Raises:
        ValueError: a number is not finite.
    """
    out = np.empty(quants.nbytes(int(weight_type), array.size), np.uint8)
    if weight_type.searched and (importance is not None or not weight_type.encoded):
        rows = _floats(array, bf16).reshape(-1, array.shape[-1])
        finite = searched.search(rows, out, int(weight_type), importance, threads)
    else:
        finite = quants.encode(array, out, int(weight_type), threads, bf16)
    if not finite:
        raise ValueError("a number is not finite")
    return out


def _floats(array: Rows, bf16: bool) -> NDArray[np.float32]:
    """The numbers of an array as float32."""
    if bf16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array, np.float32)


class ModelFile(StoredModel):
    """An open model file."""

    tensors: dict[str, TensorInfo]

    def __init__(self, path: Path, data: mmap.mmap, spec: ModelSpec, header_size: int) -> None:
        self.files = (path,)
        self.spec = spec
        self.tensors = tensor_table(spec, header_size)
        self._map: mmap.mmap | None = data
        self._bytes: NDArray[np.uint8] = np.frombuffer(data, np.uint8)

    @classmethod
    def open(cls, path: str | Path) -> ModelFile:
        """Map a file and check its header and size.

        Raises:
            ModelError: the file cannot be read.
            FormatError: the header is malformed, or the size is wrong.
            UnsupportedError: the file needs a newer dllama.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                spec, header_size = read_header(file.read(MAX_HEADER), path)
                _check_size(spec, header_size, size, path)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}") from error
        return cls(path, data, spec, header_size)

    def close(self) -> None:
        """Release the file. Its pages stay mapped while arrays refer to them."""
        self._map = None
        self._bytes = np.empty(0, np.uint8)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor: uint8 (nbytes,), a read-only view."""
        info = self.tensors[self.holder(name)]
        return self._bytes[info.offset : info.offset + info.nbytes]

    def release(self, name: str) -> None:
        """Let the system drop a tensor's pages; they are read again when needed."""
        info = self.tensors[self.holder(name)]
        begin = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = info.offset + info.nbytes - begin
        if self._map is not None and length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, length)


def _check_size(spec: ModelSpec, header_size: int, size: int, path: Path) -> None:
    """FormatError unless the tensors fill the file exactly."""
    if spec.n_layers * max(1, spec.n_experts) * 8 > size:
        raise FormatError(path, "file size", f"{size} bytes", f"{spec.n_layers} layers of tensors")
    last = next(reversed(tensor_table(spec, header_size).values()))
    expected = last.offset + last.nbytes
    if size != expected:
        what = "is cut off" if size < expected else "has bytes after the last tensor"
        raise FormatError(path, f"file size (the file {what})", f"{size} bytes", f"{expected}")


class ModelWriter:
    """Writes a model file tensor by tensor. The file has a temporary name until commit.

    Use it in a with statement: if commit is not called, the file is deleted. Every error of the
    file system is raised as an OutputError that names the file.
    """

    def __init__(self, path: str | Path, spec: ModelSpec, threads: int = 1) -> None:
        self.path = Path(path)
        header = write_header(spec, self.path)
        self.tensors = tensor_table(spec, len(header))
        self._threads = threads
        self._todo = list(self.tensors.values())
        self._rows = 0
        with _output_errors(self.path):
            handle, name = tempfile.mkstemp(prefix=self.path.name + ".", dir=self.path.parent)
            self._temporary = Path(name)
            self._file = os.fdopen(handle, "wb")
        with _output_errors(self.path):
            self._file.write(header)

    def __enter__(self) -> ModelWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # unwritten bytes do not matter: the file is deleted
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write_rows(
        self,
        name: str,
        rows: Rows,
        bf16: bool = False,
        importance: NDArray[np.float32] | None = None,
    ) -> None:
        """Encode and write the next rows of a tensor. Tensors come in the order of the file.

        Args:
            name: the tensor.
            rows: (r, columns), or (n,) for a vector: float32 or float16; with bf16, bfloat16
                bits in uint16.
            bf16: whether rows hold bfloat16 bits.
            importance: of each column, as for `encode`.

        Raises:
            FormatError: a number is not finite.
            ValueError: rows or importance have the wrong shape, other rows come next, or rows
                cannot be converted to the type.
        """
        info = self._next(name, rows.shape[0])
        if rows.shape[1:] != info.shape[1:]:
            raise ValueError(f"rows of {name} with shape {rows.shape} do not come next")
        if not info.weight_type.writable:
            raise ValueError(f"rows of {name} cannot be converted to {info.weight_type.name}")
        if importance is not None and importance.shape != info.shape[1:]:
            raise ValueError(
                f"importance of {name} is {importance.shape}, expected {info.shape[1:]}"
            )
        try:
            data = encode(rows, info.weight_type, self._threads, bf16, importance)
        except ValueError as error:
            raise self._not_finite(info) from error
        self._write(data, rows.shape[0])

    def write_blocks(self, name: str, rows: NDArray[np.uint8]) -> None:
        """Write the next rows of a quantised tensor, already encoded.

        Args:
            name: the tensor.
            rows: uint8 (r, bytes per row).

        Raises:
            FormatError: a number is not finite.
            ValueError: the rows have the wrong shape, or other rows come next.
        """
        info = self._next(name, rows.shape[0])
        kind = info.weight_type
        if kind.block_size == 1 or rows.shape[1] != kind.nbytes(info.shape[1]):
            raise ValueError(f"blocks of {name} with shape {rows.shape} do not come next")
        numbers = decode(rows, kind, (len(rows), info.shape[1]), self._threads)
        if not np.isfinite(numbers).all():
            raise self._not_finite(info)
        self._write(np.ascontiguousarray(rows), rows.shape[0])

    def _next(self, name: str, count: int) -> TensorInfo:
        """The tensor to write next; ValueError unless it is `name` and has `count` rows left."""
        info = self._todo[0] if self._todo else None
        if info is None or info.name != name:
            raise ValueError(f"rows of {name} do not come next")
        if self._rows + count > info.shape[0]:
            raise ValueError(f"{self._rows + count} rows of {name}, expected {info.shape[0]}")
        return info

    def _not_finite(self, info: TensorInfo) -> FormatError:
        expected = f"numbers that {info.weight_type.name} holds"
        return FormatError(self.path, info.name, "not a finite number", expected)

    def _write(self, data: NDArray[np.uint8], count: int) -> None:
        """Write `count` encoded rows."""
        with _output_errors(self.path):
            self._file.write(data.data)
        self._rows += count
        if self._rows == self._todo[0].shape[0]:
            self._todo.pop(0)
            self._rows = 0

    def commit(self) -> None:
        """Sync the file to disk and give it its name; ValueError while tensors are missing."""
        if self._todo:
            raise ValueError(f"{self._todo[0].name} has not been written")
        with _output_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.chmod(0o666 & ~_umask())
            self._temporary.replace(self.path)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise OutputError(f"{path}: cannot write: {reason}") from error


def _umask() -> int:
    """The process's file mode mask. It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
