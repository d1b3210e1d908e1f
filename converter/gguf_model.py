"""GGUF files as models: read where they are, every tensor in its own type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.converter.convert import read_spec
from dllama.converter.families.rope import unpaired
from dllama.converter.own_types import own_type, with_own_types
from dllama.converter.sources.gguf import GgufFile
from dllama.converter.sources.gguf_types import is_known, kind_of
from dllama.converter.sources.stored import Stored, floats
from dllama.converter.tensors import find_tensors, is_tied
from dllama.errors import FormatError, UnsupportedError
from dllama.model.file import encode
from dllama.model.header import read_header, write_header
from dllama.model.spec import ModelSpec, RopeType
from dllama.model.stored_model import StoredModel, decode
from dllama.model.tensors import Tensor, tensors
from dllama.model.weight_types import WeightType
from dllama.text.tokenizer import Tokenizer

# What --requantise makes of a type that dllama does not compute with.
REQUANTISED = WeightType.Q80


class GgufModel(StoredModel):
    """An open GGUF model. Vectors are given as float32, matrices as the file stores them.

    Args:
        path: the file; of a split model, any of its files.
        requantise: convert tensors of other types than weight types to q80 when they are read.

    Raises:
        ModelError: a file cannot be read or is missing.
        FormatError: a file is broken, or does not have the tensors of its metadata.
        UnsupportedError: the model uses something that dllama does not implement.
    """

    def __init__(self, path: Path, requantise: bool = False) -> None:
        file = GgufFile(path)
        self.files = file.parts
        self._file: GgufFile | None = file
        self._requantise = requantise
        self._requantised: dict[str, NDArray[np.uint8]] = {}
        family, spec = read_spec(file.config, WeightType.F32, file.path)
        found = find_tensors(file, family.sources(spec))
        spec = replace(spec, tied=is_tied(found))
        self._stored: dict[str, Stored] = {source.name: stored for source, stored in found}
        if spec.tied:
            del self._stored["output"]
        kinds = ((name, stored, self._type(stored)) for name, stored in self._stored.items())
        spec = with_own_types(_in_file_order(spec, file), kinds)
        self.spec = _rounded(spec, file.path)
        self.tensors = {tensor.name: tensor for tensor in tensors(self.spec)}
        for name, stored in self._stored.items():
            _check_shape(stored, self.tensors[name])

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the metadata; None if there is none.

        Raises:
            FormatError: it is broken.
            UnsupportedError: it is of another kind than dllama knows.
            ModelError: the model is closed.
        """
        assert self._file is not None
        source = self._file.tokenizer()
        if source.tokenizer is None:
            return None
        return Tokenizer.of(source.tokenizer, source.config)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor in its weight type: uint8 (nbytes,), read-only."""
        name = self.holder(name)
        stored, tensor = self._stored[name], self.tensors[name]
        if own_type(stored) is tensor.weight_type:
            return _bytes(stored)
        if len(tensor.shape) == 1:
            return _numbers(stored).view(np.uint8)
        encoded = self._requantised.get(name)  # another thread may release it at any time
        if encoded is None:
            encoded = self._requantised[name] = _encoded(stored, tensor)
        return encoded

    def title(self, name: str) -> str:
        """Name and type of a tensor in the file."""
        stored = self._stored[self.holder(name)]
        return f"{stored.name} ({kind_of(stored)})"

    def release(self, name: str) -> None:
        """Let the system drop a tensor's pages; they are read again when needed."""
        self._requantised.pop(self.holder(name), None)
        if self._file is not None:
            self._stored[self.holder(name)].release()

    def close(self) -> None:
        """Release the files. Pages stay mapped while arrays refer to them."""
        self._file = None
        self._stored = {}
        self._requantised = {}

    def _type(self, stored: Stored) -> WeightType:
        """The weight type that a tensor has in memory."""
        kind = own_type(stored)
        if kind is None and not self._requantise and len(stored.shape) > 1:
            advice = "; --requantise converts such tensors to q80" if is_known(stored) else ""
            raise UnsupportedError(
                f"{stored.path}: {stored.name} is {kind_of(stored)}, which dllama does not compute "
                f"with{advice}"
            )
        return REQUANTISED if kind is None else kind


def _in_file_order(spec: ModelSpec, file: GgufFile) -> ModelSpec:
    """The spec for rows of q and k in the order of the file."""
    if file.paired or spec.rope_type is RopeType.FALCON:
        return spec
    return unpaired(spec)


def _rounded(spec: ModelSpec, path: Path) -> ModelSpec:
    """The spec with numbers as other nodes receive them, in float32."""
    return read_header(write_header(spec, path), path)[0]


def _check_shape(stored: Stored, tensor: Tensor) -> None:
    if stored.shape != tensor.shape:
        what = f"shape of {stored.name} ({kind_of(stored)})"
        raise FormatError(stored.path, what, stored.shape, tensor.shape)


def _bytes(stored: Stored) -> NDArray[np.uint8]:
    """The bytes of a tensor, a view of the file."""
    return stored.rows(0, stored.shape[0]).reshape(-1).view(np.uint8)


def _numbers(stored: Stored) -> NDArray[np.float32]:
    """A tensor as float32 of its shape."""
    kind = own_type(stored)
    if kind is not None:
        return decode(_bytes(stored), kind, stored.shape)
    return floats(stored.rows(0, stored.shape[0]), stored.dtype)


def _encoded(stored: Stored, tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor in another weight type; FormatError if a number is not finite."""
    numbers = _numbers(stored)
    try:
        return encode(numbers, tensor.weight_type)
    except ValueError as error:
        what = f"a number of {stored.name} ({kind_of(stored)})"
        raise FormatError(stored.path, what, "not finite", "finite numbers") from error
