"""The operations of a Llama layer in float64, on whole sequences.

T: tokens, D: width, H: query heads, K: KV heads, S: size of a head, R: rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dllama.model.spec import RopeScaling

from .quants import Blocks, Decoded, Weight, dense, quantise_q80

Array = NDArray[np.float64]


def rms_norm(x: ArrayLike, weight: ArrayLike, epsilon: float) -> Array:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis (Zhang, Sennrich 2019)."""
    x = np.asarray(x, np.float64)
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean + epsilon) * np.asarray(weight, np.float64)


def layer_norm(x: ArrayLike, weight: ArrayLike, bias: ArrayLike, epsilon: float) -> Array:
    """(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias, last axis (Ba et al. 2016)."""
    x = np.asarray(x, np.float64)
    centred = x - np.mean(x, axis=-1, keepdims=True)
    return rms_norm(centred, weight, epsilon) + np.asarray(bias, np.float64)


def matmul(x: ArrayLike, weight: Weight) -> Array:
    """x (T, D) times weight (R, D) transposed: (T, R).

    Against quantised weights the activations are quantised to Q80 first.
    """
    numbers = np.asarray(x, np.float64)
    if isinstance(weight, Blocks | Decoded):
        numbers = quantise_q80(np.asarray(x)).dequantise().astype(np.float64)
    return numbers @ np.asarray(dense(weight), np.float64).T


def heads_matmul(x: ArrayLike, weight: Weight) -> Array:
    """Each head of x (T, H, D) times its own rows of weight (H * R, D), as matmul: (T, H, R)."""
    numbers = np.asarray(x, np.float64)
    if isinstance(weight, Blocks | Decoded):
        rows = quantise_q80(np.asarray(x).reshape(-1, numbers.shape[-1]))
        numbers = rows.dequantise().astype(np.float64).reshape(numbers.shape)
    matrices = dense(weight).astype(np.float64).reshape(numbers.shape[1], -1, numbers.shape[2])
    return np.einsum("thd,hrd->thr", numbers, matrices)


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> Array:
    """Radians per position of each of the head_dim/2 pairs: theta^(-2i/head_dim), scaled."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return frequencies
    return np.array([_scale_frequency(f, scaling) for f in frequencies])


def _scale_frequency(frequency: float, scaling: RopeScaling) -> float:
    """Llama 3.1: long waves slow down by `factor`, short ones stay, between is a blend."""
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_seq_len / wavelength
    if turns > scaling.high_freq_factor:
        return frequency
    if turns < scaling.low_freq_factor:
        return frequency / scaling.factor
    span = scaling.high_freq_factor - scaling.low_freq_factor
    blend = (turns - scaling.low_freq_factor) / span
    return (1 - blend) * frequency / scaling.factor + blend * frequency


def rope(x: ArrayLike, positions: ArrayLike, frequencies: ArrayLike, *, halves: bool) -> Array:
    """Turn the pairs of each head of x (T, heads, S) by position * frequency (Su et al. 2021).

    A pair is (2i, 2i+1), or with halves (i, i + S/2).
    """
    x = np.asarray(x, np.float64)
    angle = np.outer(np.asarray(positions, np.float64), np.asarray(frequencies, np.float64))
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    size = x.shape[-1]
    first, second = (
        (slice(0, size // 2), slice(size // 2, size)) if halves
        else (slice(0, size, 2), slice(1, size, 2))
    )  # fmt: skip
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def softmax(scores: ArrayLike) -> Array:
    """exp(x) / sum(exp(x)) over the last axis."""
    scores = np.asarray(scores, np.float64)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    start: int = 0,
    *,
    scale: float | None = None,
    cap: float = 0.0,
    window: int = 0,
    sinks: ArrayLike | None = None,
) -> Array:
    """Causal grouped-query attention: q (T, H, S) over k (start + T, K, S) and
    v (start + T, K, V), gives (T, H, V).

    Query t stands at position start + t and sees positions 0 to start + t;
    query head h reads KV head h / (H / K). scale: None for 1 / sqrt(S). cap: if not 0,
    cap * tanh(score / cap) takes the place of a score. window: if not 0, a query sees only so many
    positions, the last one its own. sinks: (H,), one more score of each head, of a value of zeros.
    """
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    tokens, heads, size = q.shape
    group = heads // k.shape[1]
    out = np.empty((tokens, heads, v.shape[2]))
    for t in range(tokens):
        end = start + t + 1
        seen = slice(max(0, end - window) if window else 0, end)
        for head in range(heads):
            keys, values = k[seen, head // group], v[seen, head // group]
            scores = keys @ q[t, head] * (1 / math.sqrt(size) if scale is None else scale)
            scores = softcap(scores, cap) if cap else scores
            if sinks is None:
                out[t, head] = softmax(scores) @ values
            else:
                out[t, head] = softmax([*scores, sinks[head]])[:-1] @ values
    return out


def softcap(x: ArrayLike, cap: float) -> Array:
    """cap * tanh(x / cap)."""
    return cap * np.tanh(np.asarray(x, np.float64) / cap)


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(x, np.float64), -700, 700)))


def route(
    scores: ArrayLike,
    taken: int,
    *,
    normalised: bool,
    sigmoids: bool = False,
    correction: ArrayLike = 0.0,
    groups: int = 1,
    groups_taken: int = 1,
    group_best: int = 1,
    scale: float = 1.0,
) -> tuple[Array, Array]:
    """The experts that a token takes, best first, and their weights, by its scores (experts,).

    Args:
        normalised: weights are divided by their sum.
        sigmoids: of each score, in place of the softmax.
        correction: added for the choice only.
        groups, groups_taken, group_best: a group counts as the sum of its best few.
        scale: factor of the weights.
    """
    scores = np.asarray(scores, np.float64)
    probabilities = sigmoid(scores) if sigmoids else softmax(scores)
    choice = (probabilities + correction).reshape(groups, -1)
    group_scores = np.sort(choice, axis=1)[:, -group_best:].sum(axis=1)
    left = np.argsort(-group_scores, kind="stable")[groups_taken:]
    choice[left] = -np.inf
    best = np.argsort(-choice.ravel(), kind="stable")[:taken]
    weights = probabilities[best]
    return best, scale * (weights / weights.sum() if normalised else weights)


def silu(x: ArrayLike) -> Array:
    """x * sigmoid(x)."""
    x = np.asarray(x, np.float64)
    return x / (1 + np.exp(-np.clip(x, -700, 700)))


def gelu(x: ArrayLike) -> Array:
    """The tanh approximation of GELU."""
    x = np.asarray(x, np.float64)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def geglu(gate: ArrayLike, up: ArrayLike) -> Array:
    """gelu(gate) * up (Shazeer 2020)."""
    return gelu(gate) * np.asarray(up, np.float64)


def swiglu(gate: ArrayLike, up: ArrayLike) -> Array:
    """silu(gate) * up (Shazeer 2020)."""
    return silu(gate) * np.asarray(up, np.float64)


def swiglu_clamped(gate: ArrayLike, up: ArrayLike, limit: float) -> Array:
    """gpt-oss's activation: (u + 1) * g * sigmoid(1.702 g) of clamped g and u."""
    g = np.minimum(np.asarray(gate, np.float64), limit)
    u = np.clip(np.asarray(up, np.float64), -limit, limit)
    return (u + 1) * g / (1 + np.exp(np.clip(-1.702 * g, -700, 700)))
