"""Texts that are embedded: one vector says what a text is about."""

from __future__ import annotations

import math
from collections.abc import Sequence as Ids
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama import options
from dllama.errors import ModelError
from dllama.model_path import model_folder
from dllama.options.files import pooling_default
from dllama.runtime.sequences import Sequences
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.scheduling.generation import Generation
from dllama.scheduling.text_maker import TextMaker
from dllama.text.stream import TextStream


class Embedding(Generation):
    """A text that is read, and not continued. LLM.submit_embedding makes one, LLM.step works on it.

    A state is what the last layer makes of an id, after the final norm. The states are added in
    float64 in the order of the ids, and the sum of squares is rounded once. So a vector has the
    same bits whatever the passes are.

    Args:
        sequences: all sequences of the model.
        ids: of the text, at least one; they fit.
        pooling: last takes the state of the last id, mean the mean of all.
    """

    afresh, kept = True, False

    def __init__(self, sequences: Sequences, ids: list[int], pooling: str) -> None:
        super().__init__(sequences, ids, 0, Sampler(SamplerConfig()), TextStream(None, ()), ())
        self._first = self.prompt - 1 if pooling == options.LAST else 0
        self._read = self._first  # the first id whose state is wanted, and not in the sum
        self._sum: NDArray[np.float64] | float = 0.0
        self._vector: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls, texts: TextMaker, sequences: Sequences, text: str | Ids[int], pooling: str | None
    ) -> Embedding:
        """Return a text that is read from its beginning.

        Args:
            texts: makes texts of the model.
            sequences: all of the model.
            text: text or token ids.
            pooling: last or mean; None for that of the model (own_pooling).

        Raises:
            ConfigError: pooling is another word, or the text has no ids or wrong ones.
            FormatError: the model's folder names another pooling.
            ContextError: the text does not fit.
        """
        chosen = options.POOLING.argument(pooling) or own_pooling(texts.model)
        ids = texts.ids(text)
        sequences.require(0, len(ids))
        return cls(sequences, ids, chosen)

    @property
    def over(self) -> bool:
        """Whether nothing more is evaluated."""
        ended = self._cancelled or self._stopped or self._error is not None
        return ended or self._vector is not None

    @property
    def vector(self) -> NDArray[np.float32]:
        """The embedding, float32 (dim,), of length 1.

        Raises:
            DllamaError: the text ended by an error, or too early.
        """
        if self._vector is None:
            raise self._error or ModelError("the text was not read to its end")
        return self._vector

    def states(self, rows: int) -> range:
        """Return which of its next rows have states that are wanted.

        A text that gave way to others is evaluated again; what was read does not count twice.
        """
        assert self.sequence is not None
        first = max(0, self._read - self.sequence.position)
        return range(min(rows, first), rows)

    def read(self, states: NDArray[np.float32]) -> None:
        """Take the states that were wanted of the rows of a pass: float32 (rows, dim)."""
        for state in states:
            self._sum = self._sum + state.astype(np.float64)
        self._read += len(states)
        if self._read == self.prompt:
            self._vector = _normalised(np.asarray(self._sum) / (self.prompt - self._first))


def own_pooling(model: Path) -> str:
    """Return how texts are embedded by a model, as its folder says; errors of pooling_default."""
    folder = model_folder(model)
    return options.MEAN if folder is None else pooling_default(folder)


def _normalised(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a vector of length 1 in the same direction; zeros stay zeros."""
    length = math.sqrt(math.fsum(vector * vector))
    return (vector / (length or 1.0)).astype(np.float32)
