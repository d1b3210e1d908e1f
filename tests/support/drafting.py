"""Plays a known text as if a model wrote it: which passes drafts take, and what these cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dllama.drafts.costs import Costs
from dllama.drafts.drafter import Drafter

TEXT = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")


def words(text: str) -> list[int]:
    """Words, spaces and signs as ids."""
    return [sum(map(ord, word)) * 31 + len(word) for word in re.findall(r"\w+|\W", text)]


@dataclass
class Played:
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0


def play(
    text: Sequence[int],
    prompt: int,
    drafter: Drafter,
    seconds: Callable[[int], float],
    costs: Costs | None = None,
    most: int = 8,
    others: int = 0,
) -> Played:
    """Generate text[prompt:]. `seconds` of a pass by its rows; `others`: rows of other texts."""
    costs = costs or Costs()
    played = Played()
    end = prompt
    while end < len(text):
        proposal = drafter.propose(text[:end], min(most, len(text) - end - 1))
        depth = costs.worth(drafter.chances, 1 + others, len(proposal))
        right = 0
        while right < depth and proposal[right] == text[end + right]:
            right += 1
        costs.observe(1 + others + depth, seconds(1 + others + depth))
        if depth:
            drafter.learn(depth, right)
        played.seconds += seconds(1 + others + depth)
        played.passes += 1
        played.drafted += depth
        played.accepted += right
        end += right + 1
    return played
