"""GGUF files: model and tokenizer in one file, or in several that belong together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.converter.extras import require
from dllama.converter.sources.gguf_config import FREQUENCIES, hugging_face_name, read_config
from dllama.converter.sources.gguf_header import MAGIC, GgufHeader, TensorEntry, read_header, typed
from dllama.converter.sources.stored import BLOCKS, DTYPES, MappedFile, MappedTensor, part_shape
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.converter.tokenizers.gguf import read_tokenizer
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError

# Names of the types that ggml's numbers stand for.
TYPES = {
    0: "F32", 1: "F16", 2: "Q40", 3: "Q41", 6: "Q50", 7: "Q51", 8: "Q80", 10: "Q2K", 11: "Q3K",
    12: "Q4K", 13: "Q5K", 14: "Q6K", 20: "IQ4NL", 23: "IQ4XS", 30: "BF16", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class QuantisedTensor:
    """A tensor in a quantisation that the package gguf converts to float32.

    Attributes:
        file: the file that contains it.
        name: its name in the file.
        shape: rows first.
        begin: offset in the file, in bytes.
        kind: the package's quantisation type.
        block: numbers per block.
        block_nbytes: bytes per block.
        dequantize: the package's function.
        dtype: of the rows that are read.
    """

    file: MappedFile
    name: str
    shape: tuple[int, ...]
    begin: int
    kind: Any
    block: int
    block_nbytes: int
    dequantize: Callable[[NDArray[np.uint8], Any], NDArray[np.float32]]
    dtype: str = "F32"

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def lossy(self) -> str:
        """Name of the quantisation."""
        return str(self.kind.name)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.block * self.block_nbytes

    def part(self, index: int, count: int) -> QuantisedTensor:
        """Return one of `count` equal runs of rows."""
        shape, nbytes = part_shape(self, count), self.nbytes // count
        return self if count == 1 else replace(self, shape=shape, begin=self.begin + index * nbytes)

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count as float32 (count, columns)."""
        size = self.nbytes // self.shape[0]
        raw = np.frombuffer(self.file.data, np.uint8, count * size, self.begin + first * size)
        numbers = self.dequantize(raw.reshape(-1, self.block_nbytes), self.kind)
        return numbers.reshape(count, *self.shape[1:])

    def release(self) -> None:
        """Release the memory of the tensor's pages."""
        self.file.release(self.begin, self.nbytes)


Mapped = MappedTensor | QuantisedTensor


class GgufFile:
    """A GGUF file; of a split model, the first file."""

    files: Collection[str] = ()

    weights = None

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the path is a GGUF file."""
        if not path.is_file():
            return False
        try:
            with path.open("rb") as file:
                return file.read(4) == MAGIC
        except OSError as error:
            raise ModelError(f"{path}: cannot read: {error.strerror}") from error

    def __init__(self, path: Path) -> None:
        self.path = self.config_path = path
        self._file = MappedFile(path)
        self._header = read_header(self._file)
        stored = dict(self._stored())
        metadata, factors = self._header.metadata, self._factors(stored.pop(FREQUENCIES, None))
        self.config = read_config(metadata, stored.keys(), factors, path)
        self.config["vocab_size"] = self._vocab_size(stored)
        self.paired = metadata["general.architecture"] == "llama"
        self.tensors: Mapping[str, Mapped] = dict(self._renamed(stored))
        self.absent: dict[str, DllamaError] = {}

    def tokenizer(self) -> SourceTokenizer:
        """Return the tokenizer in the metadata."""
        return read_tokenizer(self.path, self._header.metadata)

    def _stored(self) -> Iterator[tuple[str, Mapped]]:
        """Yield the tensors of all files with GGUF's names."""
        for file, header in self._files():
            for entry in header.tensors:
                yield entry.name, _tensor(file, entry)

    def _factors(self, tensor: Mapped | None) -> NDArray[np.float32] | None:
        """Return the factors (head_size/2,) of the RoPE frequencies."""
        if tensor is None:
            return None
        if tensor.dtype != "F32" or len(tensor.shape) != 1:
            found = f"{tensor.dtype} {tensor.shape}"
            raise FormatError(self.path, FREQUENCIES, found, "a vector of F32")
        return tensor.rows(0, tensor.shape[0])

    def _files(self) -> Iterator[tuple[MappedFile, GgufHeader]]:
        """Yield this file and, for a split model, those that follow it."""
        yield self._file, self._header
        count = typed(self._header.metadata, "split.count", int, self.path, 0)
        if count in (0, 1):
            return
        match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", self.path.name)
        if match is None or int(match[2]) != count:
            raise ModelError(
                f"{self.path}: is one of {count} files, expected the first, "
                f"with a name that ends in -00001-of-{count:05d}.gguf"
            )
        for number in range(2, count + 1):
            name = f"{match[1]}-{number:05d}-of-{count:05d}.gguf"
            file = MappedFile(self.path.with_name(name))
            yield file, read_header(file)

    def _vocab_size(self, stored: Mapping[str, Mapped]) -> int:
        """Return the number of rows of the embedding."""
        if "token_embd.weight" not in stored:
            raise FormatError(self.path, "token_embd.weight", "missing", "the embedding")
        return stored["token_embd.weight"].shape[0]

    def _renamed(self, stored: Mapping[str, Mapped]) -> Iterator[tuple[str, Mapped]]:
        """Yield the tensors with Hugging Face's names; stacked experts become one tensor each."""
        for name, tensor in stored.items():
            theirs = hugging_face_name(name, self.config["model_type"])
            if theirs is None:
                raise UnsupportedError(f"{self.path}: the tensor {name} is not supported")
            if ("{}" in theirs) != (len(tensor.shape) == 3):
                raise FormatError(self.path, f"shape of {name}", tensor.shape, "a matrix")
            if "{}" not in theirs:
                yield theirs, tensor
                continue
            for expert in range(tensor.shape[0]):
                yield theirs.format(expert), tensor.part(expert, tensor.shape[0])


def _tensor(file: MappedFile, entry: TensorEntry) -> Mapped:
    """Create a tensor and check that it lies within the file."""
    tensor: Mapped
    dtype = TYPES.get(entry.type, "")
    if dtype in DTYPES or dtype in BLOCKS:
        block = BLOCKS[dtype].block_size if dtype in BLOCKS else 1
        tensor = MappedTensor(file, entry.name, dtype, entry.shape, entry.begin)
    else:
        tensor = _quantised(file, entry)
        block = tensor.block
    if entry.shape[-1] % block or len(entry.shape) == 1 < block:
        raise FormatError(file.path, f"shape of {entry.name}", entry.shape, f"rows of {block}s")
    if entry.begin + tensor.nbytes > len(file.data):
        found = f"bytes {entry.begin} to {entry.begin + tensor.nbytes}"
        raise FormatError(file.path, entry.name, found, f"at most {len(file.data)} (cut off)")
    return tensor


def _quantised(file: MappedFile, entry: TensorEntry) -> QuantisedTensor:
    """Create a tensor of a type that only the package gguf can read."""
    package = require("gguf", "gguf", f"{file.path}: {entry.name} (quantisation {entry.type})")
    try:
        kind = package.GGMLQuantizationType(entry.type)
        block, nbytes = package.GGML_QUANT_SIZES[kind]
        package.dequantize(np.zeros((1, nbytes), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnsupportedError(
            f"{file.path}: {entry.name} has a type that cannot be read ({error})"
        ) from error
    return QuantisedTensor(
        file, entry.name, entry.shape, entry.begin, kind, block, nbytes, package.dequantize
    )
