"""An open model, whatever file format it is stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dllama._kernels import weight_types as quants
from dllama.model.spec import ModelSpec
from dllama.model.tensors import Tensor
from dllama.model.weight_types import WeightType

Self = TypeVar("Self", bound="StoredModel")


def decode(
    raw: NDArray[np.uint8], weight_type: WeightType, shape: tuple[int, ...], threads: int = 1
) -> NDArray[np.float32]:
    """Decode stored bytes to float32 of the given shape."""
    out = np.empty(shape, np.float32)
    quants.decode(np.ascontiguousarray(raw).reshape(-1), out.reshape(-1), int(weight_type), threads)
    return out


class StoredModel(ABC):
    """The spec and the tensors of a model in one file or several. Close it, or use it in a with
    statement.

    Arrays that its methods return stay valid after close. The output matrix of a model whose
    embedding is tied to it is read as the embedding.

    Attributes:
        files: all files, the one that names the model first.
        spec: the model.
        tensors: by name, in the order of dllama.model.tensors.
    """

    files: tuple[Path, ...]
    spec: ModelSpec
    tensors: Mapping[str, Tensor]

    @abstractmethod
    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor in its weight type: uint8 (nbytes,), read-only."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Let the system drop a tensor's pages; they are read again when needed."""

    @abstractmethod
    def close(self) -> None:
        """Release the files. Pages stay mapped while arrays refer to them."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The file that names the model."""
        return self.files[0]

    def holder(self, name: str) -> str:
        """The tensor that is read for another one: the embedding for a tied output."""
        return "embedding" if self.spec.tied and name == "output" else name

    def info(self, name: str) -> Tensor:
        """Shape and weight type of a tensor; KeyError if the model has none of this name."""
        return self.tensors[self.holder(name)]

    def title(self, name: str) -> str:
        """Name and type of a tensor as the file calls them, for messages."""
        return f"{self.holder(name)} ({self.info(name).weight_type.name.lower()})"

    def rows(self, name: str) -> NDArray[np.uint8]:
        """A tensor as uint8 (rows, bytes per row). A vector is one row."""
        shape = self.info(name).shape
        return self.raw(name).reshape(shape[0] if len(shape) == 2 else 1, -1)

    def stored(self, name: str) -> quants.StoredRows:
        """The rows of a matrix, not copied."""
        tensor = self.info(name)
        return quants.StoredRows(self.rows(name), int(tensor.weight_type), tensor.shape[1])

    def f32(self, name: str) -> NDArray[np.float32]:
        """A tensor as float32 of its shape: a view if it is stored as float32, else decoded."""
        tensor, raw = self.info(name), self.raw(name)
        if tensor.weight_type is WeightType.F32 and raw.ctypes.data % 4 == 0:
            return raw.view("<f4").reshape(tensor.shape)
        return decode(raw, tensor.weight_type, tensor.shape)
