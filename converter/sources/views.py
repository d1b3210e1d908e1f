"""Parts of stored tensors that are not runs of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.stored import Stored
from dllama.errors import FormatError

Layout = Literal["rows", "columns", "vector"]


@dataclass(frozen=True)
class View:
    """Every `step`th row, column or number of a matrix.

    Attributes:
        whole: the matrix.
        layout: rows; columns, which become rows; or vector: the matrix is one row, whose numbers
            are those of a vector.
        first: the first of them.
        step: from one to the next.
    """

    whole: Stored
    layout: Layout
    first: int
    step: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.whole.path

    @property
    def name(self) -> str:
        """The name of the matrix."""
        return self.whole.name

    @property
    def dtype(self) -> str:
        """As in Stored."""
        return self.whole.dtype

    @property
    def lossy(self) -> str:
        """As in Stored."""
        return self.whole.lossy

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        *_, rows, columns = self.whole.shape
        count = len(range(self.first, rows if self.layout == "rows" else columns, self.step))
        return {"rows": (count, columns), "columns": (count, rows), "vector": (count,)}[self.layout]

    @property
    def nbytes(self) -> int:
        """Its part of the bytes of the matrix."""
        return self.whole.nbytes * math.prod(self.shape) // math.prod(self.whole.shape)

    def part(self, index: int, count: int, span: int = 1) -> View:
        """Return the tensor itself: it is a part already."""
        if count != 1:
            raise FormatError(
                self.path, f"shape of {self.name}", self.shape, f"{count} equal parts"
            )
        return self

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """Return rows first to first + count."""
        begin, length = self.first + first * self.step, (count - 1) * self.step + 1
        if self.layout == "rows":
            return self.whole.rows(begin, length)[:: self.step]
        numbers = self.whole.rows(0, self.whole.shape[0])[:, begin : begin + length : self.step]
        return numbers[0] if self.layout == "vector" else np.ascontiguousarray(numbers.T)

    def release(self) -> None:
        """Release the memory of the matrix's pages."""
        self.whole.release()
