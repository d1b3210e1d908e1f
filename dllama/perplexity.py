"""Perplexity: how well a model predicts a text (Jelinek et al. 1977)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dllama.engine import LLM
from dllama.errors import ConfigError


@dataclass(frozen=True)
class Perplexity:
    """perplexity = exp(mean of -log p) over `tokens` tokens."""

    perplexity: float
    tokens: int


def perplexity(
    llm: LLM,
    ids: Sequence[int],
    context: int = 512,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Perplexity:
    """Perplexity of ids (without bos), cut into windows of context - 1 that each follow a bos.

    Every id is scored once. A model without bos scores no first token of a window. The
    model's own context is forgotten. ConfigError where nothing is left to score.
    """
    if not 2 <= context <= llm.seq_len:
        raise ConfigError(f"context is {context}, expected 2 to {llm.seq_len}")
    bos = [llm.tokenizer.bos_id] if llm.tokenizer and llm.tokenizer.bos_id is not None else []
    total, count = 0.0, 0
    step = context - len(bos)
    for begin in range(0, len(ids), step):
        window = [*bos, *ids[begin : begin + step]]
        llm.reset()
        losses = negative_log_likelihoods(llm.eval(window[:-1]), window[1:])
        total += float(losses.sum())
        count += len(losses)
        progress(len(losses))
    llm.reset()
    if count == 0:
        raise ConfigError("the text has no tokens to score")
    return Perplexity(math.exp(total / count), count)


def negative_log_likelihoods(
    logits: NDArray[np.float32], tokens: Sequence[int]
) -> NDArray[np.float64]:
    """-log softmax(logits)[token], float64 (n,), for logits (n, vocab) and n tokens."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    log_sum = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    losses: NDArray[np.float64] = log_sum - wide[np.arange(len(wide)), list(tokens)]
    return losses
