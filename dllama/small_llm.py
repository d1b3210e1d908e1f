"""A small model that drafts texts of another one."""

from __future__ import annotations

from collections.abc import Sequence

from dllama.engine import LLM
from dllama.sampling.grammar import Constraint
from dllama.sampling.sampler import Sampler


class SmallLLM(LLM):
    """A model that drafts texts of another one."""

    _drafting = True

    def draft(
        self, ids: Sequence[int], count: int, sampler: Sampler, first: int,
        constraint: Constraint | None = None,
    ) -> list[int]:  # fmt: skip
        """Return what this model draws after the ids of a text.

        Args:
            ids: of the text.
            count: how many ids to draw; they fit.
            sampler: of the text.
            first: how many tokens of the text were drawn.
            constraint: a fork of the text's, or None.
        """
        text = self._texts.draft([*ids], count, sampler, first, constraint)
        return [token.id for _, token in self._scheduler.run_all([text])]
