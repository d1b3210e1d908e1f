"""Linear attention in float64, on whole sequences: gated delta networks (Yang et al. 2024, as in
Qwen3-Next) and Mamba-2 (Dao and Gu 2024, as in Falcon-H1).

T: tokens, H: value heads, G: key heads, K: numbers of a key, V: numbers of a value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from . import ops


def convolved(x: ArrayLike, weight: ArrayLike, bias: ArrayLike = 0.0) -> ops.Array:
    """SiLU of a causal convolution of each channel: x (T, C), weight (C, taps), gives (T, C)."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    taps = weight.shape[1]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    taken = (padded[j : j + len(x)] * weight[:, j] for j in range(taps))
    return ops.silu(sum(taken) + np.asarray(bias, np.float64))


def unit(x: ArrayLike) -> ops.Array:
    """x / sqrt(sum x^2 + 1e-6) over the last axis."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def rule(q, k, v, decay, beta, state):
    """The delta rule of a head: q, k (T, K), v (T, V), decay and beta (T,), state (K, V).

    Returns (T, V), and the state after the last row.
    """
    out, state = np.empty(np.shape(v)), np.array(state, np.float64)
    for t in range(len(out)):
        state *= decay[t]
        state += np.outer(k[t], beta[t] * (v[t] - state.T @ k[t]))
        out[t] = state.T @ q[t]
    return out, state


def attention(weights, sizes, x, epsilon):
    """Linear attention before the output projection: x (T, dim), gives (T, H * V)."""
    q, k, v, z, b, a = (
        ops.matmul(x, weights[name])
        for name in ("linear_q", "linear_k", "linear_v", "linear_z", "beta", "decay")
    )
    conv = np.asarray(weights["conv"]).reshape(-1, sizes.taps)
    joined = convolved(np.concatenate([q, k, v], axis=1), conv)
    parts = np.split(joined, [sizes.keys, 2 * sizes.keys], axis=1)
    q, k = (unit(one.reshape(len(x), -1, sizes.key_dim)) for one in parts[:2])
    v, z = (one.reshape(len(x), -1, sizes.value_dim) for one in (parts[2], z))
    beta = 1 / (1 + np.exp(-b))
    softplus = np.logaddexp(0, a + np.asarray(weights["dt_bias"], np.float64))
    decay = np.exp(-np.exp(np.asarray(weights["a_log"], np.float64)) * softplus)
    group = sizes.value_heads // sizes.key_heads
    out = np.empty_like(v)
    for head in range(sizes.value_heads):
        key, zeros = head // group, np.zeros((sizes.key_dim, sizes.value_dim))
        q_head = q[:, key] / np.sqrt(sizes.key_dim)
        out[:, head], _ = rule(q_head, k[:, key], v[:, head], decay[:, head], beta[:, head], zeros)
    return (ops.rms_norm(out, weights["linear_norm"], epsilon) * ops.silu(z)).reshape(len(x), -1)


def scan(q, k, v, decay, state):
    """The scan of a head: q, k (T, K), v (T, V), decay (T,), state (K, V).

    Returns (T, V), and the state after the last row.
    """
    out, state = np.empty(np.shape(v)), np.array(state, np.float64)
    for t in range(len(out)):
        state = decay[t] * state + np.outer(k[t], v[t])
        out[t] = state.T @ q[t]
    return out, state


def mamba(weights, sizes, x, epsilon):
    """Mamba-2 before the output projection: x (T, dim), gives (T, H * V)."""
    ssm, count = sizes.ssm, len(x)
    z, v, k, q, a = (
        ops.matmul(x, weights[name]) + weights.get(f"{name}_bias", 0.0)
        for name in ("linear_z", "linear_v", "linear_k", "linear_q", "decay")
    )
    conv = np.asarray(weights["conv"]).reshape(-1, sizes.taps)
    joined = np.concatenate([v, k, q], axis=1)
    joined = convolved(joined, conv, weights.get("conv_bias", 0.0))
    v, k, q = np.split(joined, [sizes.values, sizes.values + sizes.keys], axis=1)
    v = v.reshape(count, -1, sizes.value_dim)
    k, q = (one.reshape(count, -1, sizes.key_dim) for one in (k, q))
    steps = np.logaddexp(0, a + np.asarray(weights["dt_bias"], np.float64))
    steps = np.clip(steps, ssm.least_step, ssm.most_step or np.inf)
    decay = np.exp(-np.exp(np.asarray(weights["a_log"], np.float64)) * steps)
    group = sizes.value_heads // sizes.key_heads
    out = np.empty_like(v)
    for head in range(sizes.value_heads):
        key, zeros = head // group, np.zeros((sizes.key_dim, sizes.value_dim))
        taken = steps[:, head, None] * v[:, head]
        out[:, head], _ = scan(q[:, key], k[:, key], taken, decay[:, head], zeros)
        out[:, head] += weights["skip"][head] * v[:, head]
    out, gate = out.reshape(count, sizes.key_heads, -1), ops.silu(z).reshape(count, -1)
    if not ssm.norm_first:
        out = out * gate.reshape(out.shape)
    if ssm.norm:
        norm = np.asarray(weights["linear_norm"]).reshape(sizes.key_heads, -1)
        out = ops.rms_norm(out, norm, epsilon)
    out = out.reshape(count, -1)
    return out * gate if ssm.norm_first else out
