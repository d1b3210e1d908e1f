"""Log-probabilities of tokens by the model alone, without temperature, penalty and filters."""

from __future__ import annotations

import math
from typing import NamedTuple

from dllama.sampling.sampler import VocabularyShards


class LogProbs(NamedTuple):
    """Of a token, and ids and values of the likeliest tokens, the likeliest first."""

    token: float
    best: tuple[tuple[int, float], ...]


def log_probabilities(shards: VocabularyShards, token: int, count: int) -> LogProbs:
    """The log-probability of a token of the last logits, and those of the `count` likeliest.

    Nodes add up their parts in float64, so the last digits depend on the split.
    """
    parts = shards.likelihood(token, count)
    largest = max(part.largest for part in parts)
    total = math.fsum(part.total * math.exp(part.largest - largest) for part in parts)
    normaliser = largest + math.log(total)
    (logit,) = [part.logit for part in parts if part.logit is not None]
    best = sorted((pair for part in parts for pair in part.best), key=lambda p: (-p[1], p[0]))
    return LogProbs(
        logit - normaliser, tuple((one, value - normaliser) for one, value in best[:count])
    )
