"""Log probabilities of tokens under the model alone, without temperature, penalty or filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dllama.errors import ModelError
from dllama.sampling.lockstep import Asking, Row, together
from dllama.sampling.questions import Score
from dllama.sampling.shard import best_top


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


def given_log_probabilities(
    rows: Sequence[Row], tokens: Sequence[int], count: int
) -> Asking[list[LogProbs]]:
    """Return the log probabilities of tokens that were not drawn, as those of a prompt.

    Args:
        rows: whose logits they have.
        tokens: one for each row.
        count: how many of the most likely tokens to return beside each.

    Raises:
        ModelError: a logit is NaN or infinite, or all are -inf.
    """
    try:
        for row in rows:
            best_top(row.tops())
    except ValueError as error:
        raise ModelError(f"the model's logits are not usable: {error}") from error
    asked = zip(rows, tokens, strict=True)
    return (yield from together([log_probabilities(*one, count) for one in asked]))
