"""Log probabilities of tokens under the model alone, without temperature, penalty or filters."""

from __future__ import annotations

import math
from typing import NamedTuple

from dllama.sampling.lockstep import Asking, Row
from dllama.sampling.questions import Score


class LogProbs(NamedTuple):
    """Log probabilities of a token and of the most likely tokens.

    Attributes:
        token: log probability of the chosen token.
        best: (id, log probability) of the most likely tokens, best first.
    """

    token: float
    best: tuple[tuple[int, float], ...]


def log_probabilities(row: Row, token: int, count: int) -> Asking[LogProbs]:
    """Return the log probability of a token and of the `count` most likely tokens.

    The sums of the shards are added in float64, so the
    last digits depend on the number of nodes.
    """
    found = yield from row.ask(Score(token, count))
    largest = max(shard.largest for shard in found)
    total = math.fsum(shard.total * math.exp(shard.largest - largest) for shard in found)
    normaliser = largest + math.log(total)
    (logit,) = [shard.logit for shard in found if shard.logit is not None]
    best = sorted((pair for shard in found for pair in shard.best), key=lambda p: (-p[1], p[0]))
    return LogProbs(
        logit - normaliser, tuple((one, value - normaliser) for one, value in best[:count])
    )
