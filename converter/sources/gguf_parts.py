"""The files of a GGUF model: one, or several whose names end in -00001-of-0000N.gguf."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dllama.converter.sources.gguf_header import GgufHeader, read_header, typed
from dllama.converter.sources.stored import MappedFile
from dllama.errors import FormatError, ModelError

COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"
KEYS = (COUNT, NUMBER, TENSORS)
NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True)
class Part:
    """A file and its header."""

    file: MappedFile
    header: GgufHeader

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path


def open_parts(path: Path) -> list[Part]:
    """Open all files of a model, of which `path` is any.

    Returns:
        The files, the first one first. It holds the metadata.

    Raises:
        ModelError: a file cannot be read, is missing, or has a name that does not say the others'.
        FormatError: a file is broken, or is not the part that its name says.
        UnsupportedError: the version or the byte order is not supported.
    """
    given = _open(path)
    count = typed(given.header.metadata, COUNT, int, path, 0)
    if count in (0, 1):
        return [given]
    match = NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise ModelError(
            f"{path}: is one of {count} files, expected a name that ends in "
            f"-00001-of-{count:05d}.gguf, or another number"
        )
    paths = [path.with_name(f"{match[1]}-{n:05d}-of-{match[3]}.gguf") for n in range(1, count + 1)]
    missing = [other.name for other in paths if not other.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{path}: is one of {count} files, missing is {missing[0]}{more}")
    parts = [given if other == path else _open(other) for other in paths]
    for number, part in enumerate(parts):
        _check(part, number, parts[0])
    _check_tensors(parts)
    return parts


def _open(path: Path) -> Part:
    file = MappedFile(path)
    return Part(file, read_header(file))


def _check(part: Part, number: int, first: Part) -> None:
    """FormatError unless a file is part `number` of the model that `first` begins."""
    metadata = part.header.metadata
    expected = {COUNT: first.header.metadata[COUNT], NUMBER: number}
    for key, value in expected.items():
        found = typed(metadata, key, int, part.path)
        if found != value:
            raise FormatError(part.path, key, "missing" if found is None else found, value)
    for key, value in metadata.items():
        other: Any = first.header.metadata.get(key)
        if key not in KEYS and not np.array_equal(value, other):
            raise FormatError(part.path, key, "not that of the first file", f"as in {first.path}")


def _check_tensors(parts: list[Part]) -> None:
    """FormatError unless every tensor is in one file, and there are as many as the first says."""
    seen: dict[str, Path] = {}
    for part in parts:
        for entry in part.header.tensors:
            if entry.name in seen:
                raise FormatError(
                    part.path, f"tensor {entry.name}", f"also in {seen[entry.name]}", "one of both"
                )
            seen[entry.name] = part.path
    count = typed(parts[0].header.metadata, TENSORS, int, parts[0].path, len(seen))
    if count != len(seen):
        raise FormatError(parts[0].path, TENSORS, count, f"{len(seen)}, which the files have")
