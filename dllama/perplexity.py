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
    """The perplexity of a text.

    Args:
        perplexity: exp(mean of -log p) over the tokens.
        tokens: how many were scored.
    """

    perplexity: float
    tokens: int


def perplexity(
    llm: LLM,
    ids: Sequence[int],
    context: int = 512,
    progress: Callable[[int], object] = lambda tokens: None,
) -> Perplexity:
    """Measure the perplexity of a text. It is cut into windows, and every id is scored once.

    Args:
        llm: the model; its sequences are forgotten.
        ids: of the text, without bos.
        context: tokens of a window. The first is a bos, if the model has one; else the first id of
            each window is not scored.
        progress: called with the tokens that were scored, window by window.

    Raises:
        ConfigError: context is out of range, or there is nothing to score.
    """
    if not 2 <= context <= llm.seq_len:
        raise ConfigError(f"context is {context}, expected 2 to {llm.seq_len}")
    bos = [llm.tokenizer.bos_id] if llm.tokenizer and llm.tokenizer.bos_id is not None else []
    total, count = 0.0, 0
    ids_per_window = context - len(bos)
    for begin in range(0, len(ids), ids_per_window):
        window = [*bos, *ids[begin : begin + ids_per_window]]
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
    """Return -log softmax(logits)[token] of each row.

    Args:
        logits: float32 (n, vocab_size).
        tokens: n ids.

    Returns:
        float64 (n,).
    """
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    log_sum = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    losses: NDArray[np.float64] = log_sum - wide[np.arange(len(wide)), list(tokens)]
    return losses
