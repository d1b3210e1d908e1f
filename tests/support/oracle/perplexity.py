"""Perplexity as dllama defines it: windows that each begin with BOS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .llama import Tensors, forward
from .ops import Array


def windows(ids: Sequence[int], bos: int, context: int) -> Iterator[list[int]]:
    """Split ids (without BOS) into runs of context - 1, each after its own BOS."""
    for begin in range(0, len(ids), context - 1):
        yield [bos, *ids[begin : begin + context - 1]]


def negative_log_likelihoods(logits: Array, tokens: Sequence[int]) -> Array:
    """-log p of tokens[1:], float64 (T - 1,), from the logits (T, vocab) of the tokens."""
    logits = np.asarray(logits[:-1], np.float64)
    top = logits.max(axis=1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return log_sum - logits[np.arange(len(logits)), list(tokens[1:])]


def perplexity(
    tensors: Tensors, spec, ids: Sequence[int], bos: int, context: int = 512, **options
) -> tuple[float, int]:
    """exp(mean negative log likelihood) of ids, and how many tokens were scored."""
    losses = [
        negative_log_likelihoods(forward(tensors, spec, window, **options), window)
        for window in windows(ids, bos, context)
    ]
    scored = np.concatenate(losses)
    return float(np.exp(scored.mean())), len(scored)
