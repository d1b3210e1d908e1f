"""Perplexity: how well a model predicts a text (Jelinek et al. 1977), alone or beside another."""

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
        divergence: mean Kullback-Leibler divergence from a reference, in nats per token; None
            without one.
        same_top: share of the tokens for which both find the same token likeliest.
    """

    perplexity: float
    tokens: int
    divergence: float | None = None
    same_top: float | None = None


def perplexity(
    llm: LLM,
    ids: Sequence[int],
    context: int = 512,
    progress: Callable[[int], object] = lambda tokens: None,
    against: LLM | None = None,
) -> Perplexity:
    """Measure the perplexity of a text. It is cut into windows, and every id is scored once.

    Args:
        llm: the model; its sequences are forgotten.
        ids: of the text, without bos.
        context: tokens of a window. The first is a bos, if the model has one; else the first id of
            each window is not scored.
        progress: called with the tokens that were scored, window by window.
        against: a reference, with the same tokens; its sequences are forgotten too.

    Raises:
        ConfigError: context is out of range, the reference has other tokens, or there is nothing to
            score.
    """
    expected = llm.spec.vocab_size
    if against and against.spec.vocab_size != expected:
        found = against.spec.vocab_size
        raise ConfigError(f"against is a model of {found} tokens, expected {expected}")
    longest = min(llm.seq_len, against.seq_len) if against else llm.seq_len
    if not 2 <= context <= longest:
        raise ConfigError(f"context is {context}, expected 2 to {longest}")
    bos = [llm.tokenizer.bos_id] if llm.tokenizer and llm.tokenizer.bos_id is not None else []
    total, divergence, same, count = 0.0, 0.0, 0, 0
    ids_per_window = context - len(bos)
    for begin in range(0, len(ids), ids_per_window):
        window = [*bos, *ids[begin : begin + ids_per_window]]
        logits = _logits(llm, window[:-1])
        losses = negative_log_likelihoods(logits, window[1:])
        total += float(losses.sum())
        if against:
            reference = _logits(against, window[:-1])
            divergence += float(divergences(logits, reference).sum())
            same += int((logits.argmax(axis=1) == reference.argmax(axis=1)).sum())
        count += len(losses)
        progress(len(losses))
    llm.reset()
    if count == 0:
        raise ConfigError("the text has no tokens to score")
    if not against:
        return Perplexity(math.exp(total / count), count)
    against.reset()
    return Perplexity(math.exp(total / count), count, divergence / count, same / count)


def _logits(llm: LLM, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits after each id of a text, float32 (n, vocab_size)."""
    llm.reset()
    return llm.eval(ids)


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
    logs = _log_softmax(logits)
    losses: NDArray[np.float64] = -logs[np.arange(len(logs)), list(tokens)]
    return losses


def divergences(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of the reference from each row: sum of p log(p / q).

    Args:
        logits: float32 (n, vocab_size), of q.
        reference: float32 (n, vocab_size), of p.

    Returns:
        float64 (n,), in nats.
    """
    p, q = _log_softmax(reference), _log_softmax(logits)
    sums: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return sums


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return logs
