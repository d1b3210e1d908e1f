"""Tensors of GGUF files whose heads have another order than Hugging Face's.

llama.cpp's converter puts the value heads of gated delta networks in the order in which key heads
alternate: those that share a key head are not neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.stored import BLOCKS, DTYPES, Derived, Stored, floats, part_shape
from dllama.errors import UnsupportedError


@dataclass(frozen=True)
class Rows(Derived):
    """Rows of a tensor, or numbers of a vector, in another order.

    Attributes:
        places: where each of them is in the tensor.
    """

    places: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return len(self.places), *self.stored.shape[1:]

    def part(self, index: int, count: int, span: int = 1) -> Rows:
        """Return `span` of `count` equal runs of rows."""
        part_shape(self, count, span)
        size = len(self.places) // count
        return replace(self, places=self.places[index * size : (index + span) * size])

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count, a copy."""
        whole = self.stored.rows(0, self.stored.shape[0])
        return whole[list(self.places[first : first + count])]


@dataclass(frozen=True)
class Columns(Derived):
    """A matrix with runs of columns in another order.

    Attributes:
        places: where each run is in the rows of the tensor.
    """

    places: tuple[int, ...]

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count, a copy."""
        rows = self.stored.rows(first, count)
        runs = rows.reshape(count, len(self.places), -1)
        return np.ascontiguousarray(runs[:, list(self.places)]).reshape(rows.shape)


@dataclass(frozen=True)
class Function(Derived):
    """A function of the numbers of a vector of floats."""

    function: Callable[[NDArray[np.float32]], NDArray[np.float32]]

    @property
    def dtype(self) -> str:
        """Of what the function returns."""
        return "F32"

    def rows(self, first: int, count: int) -> NDArray[np.float32]:
        """Return numbers first to first + count."""
        return self.function(floats(self.stored.rows(first, count), self.stored.dtype))


def decay_log(rates: Stored) -> Stored:
    """A_log of a vector of -exp(A_log)."""
    return Function(rates, _log)


def _log(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return np.log(-numbers.astype(np.float64)).astype(np.float32)


def untiled(keys: int, values: int) -> list[int]:
    """Where each value head is, if those of the first places are one of each key head, and so on.

    Args:
        keys: key heads.
        values: value heads, a multiple.
    """
    return [head % (values // keys) * keys + head // (values // keys) for head in range(values)]


def of_heads(heads: list[int], size: int, before: int = 0) -> tuple[int, ...]:
    """The places of all rows of heads of `size` rows, after so many rows that stay."""
    return (*range(before), *(before + head * size + i for head in heads for i in range(size)))


def columns_of_heads(stored: Stored, heads: list[int]) -> Stored:
    """A matrix with the columns of its heads in order.

    Raises:
        UnsupportedError: a block of its type spans heads.
    """
    size = stored.shape[-1] // len(heads)
    kind = BLOCKS.get(stored.dtype)
    if heads != sorted(heads) and ((kind and size % kind.block_size) or (
        kind is None and stored.dtype not in DTYPES
    )):  # fmt: skip
        found = stored.lossy or stored.dtype
        raise UnsupportedError(
            f"{stored.path}: {stored.name} is {found}, whose blocks span heads of {size} columns, "
            "which stand in another order"
        )
    return stored if heads == sorted(heads) else Columns(stored, tuple(heads))
