"""GGUF files: model and tokenizer in one file, or in several that belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.gguf_archs.arch import Given
from dllama.converter.sources.gguf_config import (
    PREDICTORS,
    find_arch,
    hugging_face_name,
    is_beyond,
    read_config,
    usual_names,
    vocabulary,
)
from dllama.converter.sources.gguf_parts import open_parts
from dllama.converter.sources.gguf_types import Mapped, check_places, open_tensor
from dllama.converter.sources.stored import DTYPES, MappedTensor, Stored
from dllama.converter.tokenizers.folder import SourceTokenizer
from dllama.converter.tokenizers.gguf import read_tokenizer
from dllama.errors import DllamaError, FormatError, UnsupportedError
from dllama.model.formats import is_gguf

EMBEDDING = "token_embd.weight"
# Tensors that older converters wrote and nothing needs.
UNUSED = (".attn_rot_embd.weight", ".attention.rotary_emb.inv_freq")


class GgufFile:
    """A GGUF file; of a split model, any of its files.

    Attributes:
        path: the file, or the first one.
        parts: all files, the first one first.
    """

    files: Collection[str] = ()
    weights = None
    added = True
    recognises = staticmethod(is_gguf)

    def __init__(self, path: Path) -> None:
        parts = open_parts(path)
        self.parts = tuple(part.path for part in parts)
        self.path = self.config_path = self.parts[0]
        self._metadata = metadata = parts[0].header.metadata
        stored = {
            entry.name: open_tensor(part.file, entry)
            for part in parts
            for entry in part.header.tensors
            if not entry.name.endswith(UNUSED)
        }
        for part in parts:
            check_places(
                part.path, [stored[e.name] for e in part.header.tensors if e.name in stored]
            )
        given = Given(self.path, metadata, frozenset(stored))
        self._arch = arch = find_arch(given)
        factors = {name: self._factors(stored.pop(name)) for name in arch.factors if name in stored}
        self.config = read_config(arch, given, factors)
        self.config["vocab_size"] = vocabulary(given, self._embedding_rows(stored))
        if given.get(PREDICTORS):
            layers = self.config["num_hidden_layers"]
            stored = {name: one for name, one in stored.items() if not is_beyond(name, layers)}
        self.paired = arch.paired
        self._experts = given.get("expert_count", 0)
        self.tensors: Mapping[str, Stored] = dict(self._renamed(stored))

    def tokenizer(self) -> SourceTokenizer:
        """Return the tokenizer in the metadata."""
        return read_tokenizer(self.path, self._metadata)

    @cached_property
    def absent(self) -> dict[str, DllamaError]:
        """Errors of missing tensors, by Hugging Face's names, if one is asked for."""
        return dict(self._absent())

    def _absent(self) -> Iterator[tuple[str, DllamaError]]:
        """Yield Hugging Face's names of missing tensors, and errors with GGUF's names."""
        # Of more layers than there are tensors, one of these lacks a tensor.
        layers = min(self.config["num_hidden_layers"], len(self.tensors) + 1)
        for name in usual_names(self._arch, layers):
            theirs = hugging_face_name(name, self._arch)
            one = theirs and theirs.format(0)  # the first expert is asked for before others
            if one and one not in self.tensors:
                yield one, FormatError(self.path, name, "missing", "a tensor of this name")

    def _factors(self, tensor: Mapped) -> NDArray[np.float32]:
        """Return the factors (head_size/2,) of RoPE frequencies."""
        if tensor.lossy or tensor.dtype != "F32" or len(tensor.shape) != 1:
            found = f"{tensor.lossy or tensor.dtype} {tensor.shape}"
            raise FormatError(self.path, tensor.name, found, "a vector of F32")
        return tensor.rows(0, tensor.shape[0])

    def _embedding_rows(self, stored: Mapping[str, Mapped]) -> int:
        """Return the number of rows of the embedding."""
        if EMBEDDING not in stored:
            raise FormatError(self.path, EMBEDDING, "missing", "the embedding")
        return stored[EMBEDDING].shape[0]

    def _renamed(self, stored: Mapping[str, Mapped]) -> Iterator[tuple[str, Stored]]:
        """Yield the tensors with Hugging Face's names; stacked experts become one tensor each."""
        for name, tensor in stored.items():
            theirs = hugging_face_name(name, self._arch)
            if theirs is None:
                raise UnsupportedError(f"{tensor.path}: the tensor {name} is not supported")
            if "{}" in theirs:
                for expert, one in enumerate(self._experts_of(name, tensor)):
                    yield theirs.format(expert), one
            elif name.endswith(tuple(self._arch.stacked)) and len(tensor.shape) == 3:
                yield theirs, tensor.flat()
            elif len(tensor.shape) > 2:
                raise FormatError(tensor.path, f"shape of {name}", tensor.shape, "a matrix")
            elif name.endswith(tuple(self._arch.rows)) and len(tensor.shape) == 1:
                yield theirs, _reshaped(tensor, (1, *tensor.shape))
            else:
                change = self._arch.change
                yield theirs, change(name, tensor, self.config) if change else tensor

    def _experts_of(self, name: str, tensor: Mapped) -> Iterator[Mapped]:
        """Yield the matrix, or the bias, of every expert in a tensor of all of them."""
        what, axes = ("a bias", 2) if name.endswith(".bias") else ("a matrix", 3)
        if len(tensor.shape) != axes:
            expected = f"{what} of each expert"
            raise FormatError(tensor.path, f"shape of {name}", tensor.shape, expected)
        count = tensor.shape[0]
        if count != self._experts:
            expected = f"{self._experts} experts"
            raise FormatError(tensor.path, f"shape of {name}", tensor.shape, expected)
        for expert in range(count):
            part = tensor.part(expert, count)
            yield part if axes == 3 else _reshaped(part, part.shape[1:])


def _reshaped(tensor: Mapped, shape: tuple[int, ...]) -> MappedTensor:
    """The numbers of a tensor in another shape; FormatError if its type is none of floats."""
    if not isinstance(tensor, MappedTensor) or tensor.dtype not in DTYPES:
        found = tensor.lossy or tensor.dtype
        raise FormatError(tensor.path, f"type of {tensor.name}", found, "floats")
    return replace(tensor, shape=shape)
