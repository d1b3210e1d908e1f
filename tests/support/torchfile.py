"""Writes files like torch.save does, but without torch: with Python's pickler and zip archives."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORAGES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<u2": "BFloat16Storage",
            "<f8": "DoubleStorage", "<i8": "LongStorage"}  # fmt: skip


class Tensor:
    """An array that is pickled like a tensor of torch; uint16 stands for bfloat16.

    Args:
        array: the numbers.
        strides: in elements. Default: those of the array.
        base: the array whose storage this is a view of. Default: the array.
    """

    def __init__(self, array: NDArray[Any], strides: Any = None, base: Any = None) -> None:
        self.array = array
        self.base = array if base is None else base
        item = array.itemsize
        self.strides = strides or tuple(stride // item for stride in array.strides)
        begin = array.__array_interface__["data"][0]
        self.offset = (begin - self.base.__array_interface__["data"][0]) // item


class _Storage:
    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.storages: list[NDArray[Any]] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        same = [i for i, array in enumerate(self.storages) if array is value.array]
        if not same:
            self.storages.append(value.array)
        key = str(same[0] if same else len(self.storages) - 1)
        kind = getattr(sys.modules["torch"], STORAGES[value.array.dtype.str])
        return ("storage", kind, key, "cpu", value.array.size)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        arguments = (_Storage(value.base), value.offset, value.array.shape, value.strides)
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*arguments, False, OrderedDict())


@contextmanager
def _torch() -> Iterator[None]:
    """Provide modules with the names that the pickler writes."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild() -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module


def save(path: Path, value: Any, protocol: int = 2, compress: int = zipfile.ZIP_STORED) -> None:
    """Write a value whose arrays become tensors."""
    stream = io.BytesIO()
    with _torch():
        pickler = _Pickler(stream, protocol)
        pickler.dump(_tensors(value))
    write_archive(path, stream.getvalue(), pickler.storages, compress)


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return Tensor(value)
    if isinstance(value, dict):
        return OrderedDict((key, _tensors(item)) for key, item in value.items())
    return value


def write_archive(
    path: Path,
    pickled: bytes,
    storages: list[NDArray[Any]],
    compress: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
) -> None:
    """Write the archive. As in torch, its files begin at multiples of 64 bytes."""
    files = {"data.pkl": pickled, "byteorder": byteorder}
    files |= {f"data/{key}": array.tobytes() for key, array in enumerate(storages)}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in {**files, "version": b"3\n"}.items():
            entry = zipfile.ZipInfo(f"archive/{name}")
            entry.compress_type = compress
            assert archive.fp
            begin = archive.fp.tell() + 30 + len(entry.filename)
            entry.extra = (
                b"FB" + (-(begin + 4) % 64).to_bytes(2, "little") + bytes(-(begin + 4) % 64)
            )
            archive.writestr(entry, data)
