"""What proposes tokens: nothing, the text itself, or a small model with the same tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dllama.drafts import Costs, Drafter, NgramDrafter, Rate
from dllama.errors import ConfigError, ModelError
from dllama.model.spec import ModelSpec
from dllama.sampling.grammar import Constraint
from dllama.sampling.sampler import Sampler
from dllama.text.tokenizer import Tokenizer

EXPECTED = 0.7  # the chance of an id before anything is known
MEMORY = 0.9  # how much older times count for


class SmallModel(Protocol):
    """What an LLM is for the texts of a larger one."""

    model_path: Path
    spec: ModelSpec
    tokenizer: Tokenizer | None

    @property
    def seq_len(self) -> int:
        """Most positions of a text."""

    def draft(
        self,
        ids: Sequence[int],
        count: int,
        sampler: Sampler,
        first: int,
        constraint: Constraint | None,
    ) -> list[int]:
        """Return what the model draws after ids (LLM.draft)."""

    def close(self) -> None:
        """Give the memory back."""


class Drafts:
    """What proposes tokens of the texts of a model: here nothing.

    Args:
        costs: of the model's passes.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def drafter(
        self, sampler: Sampler, prompt: int, constraint: Constraint | None = None
    ) -> Drafter | None:
        """Return what proposes tokens of a new text.

        Args:
            sampler: of the text.
            prompt: how many ids of the text are not drawn.
            constraint: of the text, which goes on with it; None if all tokens may come.
        """
        return None

    def close(self) -> None:
        """Give all memory back."""


class NgramDrafts(Drafts):
    """Texts propose what they repeat."""

    def drafter(
        self, sampler: Sampler, prompt: int, constraint: Constraint | None = None
    ) -> Drafter:
        return NgramDrafter()


class ModelDrafts(Drafts):
    """A small model proposes.

    Args:
        small: with the same tokens; closed with this.
        vocab_size: of the small model.
        costs: of the large model's passes.
    """

    def __init__(self, small: SmallModel, vocab_size: int, costs: Costs) -> None:
        super().__init__(costs)
        self._small = small
        self._vocab_size = vocab_size

    def drafter(
        self, sampler: Sampler, prompt: int, constraint: Constraint | None = None
    ) -> Drafter:
        return ModelDrafter(self._small, self._vocab_size, sampler, self._costs, prompt, constraint)

    def close(self) -> None:
        self._small.close()


# By the words that the option takes; anything else is the path of a small model.
DRAFTS: dict[str, type[Drafts]] = {"none": Drafts, "ngram": NgramDrafts}


def drafts_of(draft: str | Path, costs: Costs) -> Drafts | None:
    """Return what proposes tokens of a model; None if it is a small model."""
    return DRAFTS[str(draft)](costs) if draft in DRAFTS else None


def check_same_tokens(
    model: Path, tokenizer: Tokenizer | None, small: Path, other: Tokenizer | None
) -> None:
    """Raise ConfigError unless an id means the same in a model and a small one.

    Models without a tokenizer are taken at their word.
    """
    if tokenizer is None or other is None:
        return
    count = tokenizer.vocab_size
    if count != other.vocab_size or any(
        tokenizer.spell(token) != other.spell(token) for token in range(count)
    ):
        raise ConfigError(f"draft is {small}, whose tokens are not those of {model}")


def model_drafts(
    small: SmallModel, model: Path, tokenizer: Tokenizer | None, costs: Costs
) -> ModelDrafts:
    """Return what lets a small model propose tokens of a model.

    Args:
        small: the small model, which is closed after an error.
        model, tokenizer: of the model.
        costs: of its passes.

    Raises:
        ConfigError: they have other tokens.
    """
    try:
        check_same_tokens(model, tokenizer, small.model_path, small.tokenizer)
    except BaseException:
        small.close()
        raise
    return ModelDrafts(small, small.spec.vocab_size, costs)


class ModelDrafter:
    """Proposes what a small model draws with the random numbers of the large one.

    So it proposes the right id wherever both models agree, not only where both take the likeliest.
    It is a dllama.drafts.Drafter.

    Args:
        llm: the small model.
        vocab_size: of the small model.
        sampler: of the text.
        costs: of the large model's passes, by which it decides how many ids it proposes.
        prompt: how many ids of the text were not drawn.
        constraint: of the text, or None.
    """

    def __init__(
        self,
        llm: SmallModel,
        vocab_size: int,
        sampler: Sampler,
        costs: Costs,
        prompt: int,
        constraint: Constraint | None = None,
    ) -> None:
        self._llm = llm
        self._vocab_size = vocab_size
        self._sampler = sampler
        self._costs = costs
        self._prompt = prompt
        self._constraint = constraint
        self._rate = Rate(EXPECTED)
        self._seconds = 0.0  # that an id takes
        self._proposed = 0

    @property
    def chances(self) -> Sequence[float]:
        return [self._rate.chance] * self._proposed

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        most = min(most, self._llm.seq_len - len(ids) + 1)
        chances = [self._rate.chance] * max(0, most)
        count = self._costs.worth(chances, 1, most, self._seconds)
        self._proposed = 0
        if not count or max(ids) >= self._vocab_size:
            return []
        begin = time.perf_counter()
        drafted = self._drafted(ids, count)
        took = (time.perf_counter() - begin) / count
        self._seconds = MEMORY * self._seconds + (1 - MEMORY) * took if self._seconds else took
        self._proposed = len(drafted)
        return drafted

    def _drafted(self, ids: Sequence[int], count: int) -> list[int]:
        """Return what the small model draws; nothing if no token of it fits the constraint."""
        fork = self._constraint.fork() if self._constraint else None
        try:
            return self._llm.draft(ids, count, self._sampler, len(ids) - self._prompt, fork)
        except ModelError:
            return []

    def learn(self, proposed: int, accepted: int) -> None:
        for n in range(min(proposed, accepted + 1)):
            self._rate.add(n < accepted)
