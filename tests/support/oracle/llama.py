"""The forward pass of Llama and its relatives, dense or with experts, on a whole sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dllama.model.spec import HiddenAct, ModelSpec, QKNorm, RopeType
from dllama.model.weight_types import WeightType

from . import delta, ops
from .quants import Weight, dense, through_q80, widened

Tensors = Mapping[str, Weight]

# What storing does to keys and values.
KV_TYPES = {
    WeightType.F32: np.float32,
    WeightType.F16: np.float16,
    WeightType.Q80: through_q80,
}


def forward(tensors: Tensors, spec: ModelSpec, tokens: Sequence[int], **options) -> ops.Array:
    """Logits float64 (T, vocab) after each of the tokens; options: those of `states`."""
    logits = ops.matmul(states(tensors, spec, tokens, **options), tensors["output"])
    logits = logits * spec.logits_scale
    return ops.softcap(logits, spec.logits_cap) if spec.logits_cap else logits


def states(
    tensors: Tensors,
    spec: ModelSpec,
    tokens: Sequence[int],
    *,
    halves: bool | None = None,
    kv_type: WeightType = WeightType.F32,
    jitter: float = 0.0,
    residual: float = 1.0,
) -> ops.Array:
    """What the last layer makes of each of the tokens, after the final norm: float64 (T, dim).

    halves: RoPE turns pairs (i, i + S/2) instead of (2i, 2i+1); None: as
    spec.rope_type says. kv_type: how keys and values are stored.
    jitter: relative noise on every activation, to see how far the result of
    a correct program may move (a rounding of the int8 activations may flip).
    residual: factor of what each block adds, which no spec has.
    """
    if halves is None:
        halves = spec.rope_type is RopeType.FALCON
    noise = _noise(jitter)
    x = dense(tensors["embedding"])[list(tokens)].astype(np.float64) * spec.embedding_scale
    inputs = _layer_inputs(tensors, spec, tokens, x) if spec.layer_input_dim else None
    kept: dict = {}
    for layer in range(spec.n_layers):
        weights = _layer(tensors, layer)
        turns = None if layer in spec.no_rope else halves
        windowed = layer in spec.windowed
        y = noise(_attention_block(weights, spec, x, turns, kv_type, noise, windowed, kept))
        before, x = x, x + residual * _post_normed(weights, "attention_post_norm", spec, y)
        block = _experts if "router" in weights else _feed_forward
        block = _beside if "router_norm" in weights else block
        y = noise(block(weights, spec, before if spec.parallel_residual else x, noise))
        x = x + residual * _post_normed(weights, "ffn_post_norm", spec, y)
        if inputs is not None:
            h = _activated(spec, ops.matmul(x, weights["layer_input_gate"])) * inputs[:, layer]
            y = noise(ops.matmul(noise(h), weights["layer_input_up"]))
            x = x + _norm(weights, "layer_input_post_norm", spec, y)
        x = x * np.float64(weights.get("scale", 1.0))
    return noise(_norm(tensors, "final_norm", spec, x))


def _post_normed(weights, name, spec, y):
    """y, or its norm in models that also normalise after a block."""
    return _norm(weights, name, spec, y) if spec.post_norms else y


def _normed(weights, name, spec, x):
    """The norm of x, or x in models without norms before blocks."""
    return _norm(weights, name, spec, x) if spec.pre_norms else x


def _norm(weights, name, spec, x):
    """LayerNorm of x, or RMSNorm."""
    if spec.layer_norms:
        bias = weights.get(f"{name}_bias", 0.0)
        return ops.layer_norm(x, dense(weights[name]), bias, spec.norm_epsilon)
    return ops.rms_norm(x, dense(weights[name]), spec.norm_epsilon)


def _qk_normed(weights, name, spec, x):
    """The norm of heads (T, heads, size), one by one or all together, or a copy of them."""
    if name not in weights:
        return x.copy()
    if spec.qk_norm is QKNorm.HEAD:
        return _norm(weights, name, spec, x)
    if spec.qk_norm is QKNorm.APART:
        return _norm({name: weights[name].reshape(x.shape[1:])}, name, spec, x)
    return ops.rms_norm(x.reshape(len(x), -1), weights[name], spec.norm_epsilon).reshape(x.shape)


def _layer_inputs(tensors, spec, tokens, x):
    """What each layer takes of the token, (T, layers, numbers); x: the scaled embedding."""
    size = spec.layer_input_dim
    rows = dense(tensors["layer_embedding"])[list(tokens)].astype(np.float64)
    projected = ops.matmul(x, tensors["layer_inputs"]) / np.sqrt(spec.dim)
    projected, rows = (one.reshape(len(x), -1, size) for one in (projected, rows))
    normed = ops.rms_norm(projected, dense(tensors["layer_inputs_norm"]), spec.norm_epsilon)
    return (normed + rows * np.sqrt(size)) / np.sqrt(2)


def _attention_block(weights, spec, x, halves, kv_type, noise, windowed, kept):
    """Attention over x (T, dim), before the residual sum: (T, dim). halves None: no RoPE.

    kept: the last keys and values of layers with a window, and of those without.
    """
    h = noise(_normed(weights, "attention_norm", spec, x))
    if spec.kv_latent_dim:
        return _latent_attention(weights, spec, h, halves, kv_type, noise, windowed)
    if "linear_q" in weights:
        ssm = spec.linear_sizes.ssm
        mix = delta.mamba if ssm else delta.attention
        mixed = mix(weights, spec.linear_sizes, h, spec.norm_epsilon)
        linear = ops.matmul(noise(mixed), weights["linear_o"])
        if not ssm:
            return linear
        beside = linear + weights.get("linear_o_bias", 0.0)
    else:
        beside = 0.0
    size = spec.head_dim if windowed else spec.full_head_dim or spec.head_dim
    heads = {
        name: (ops.matmul(h, weights[name]) + weights.get(f"{name}_bias", 0.0)).reshape(
            len(x), -1, size
        )
        for name in "qkv"
        if name in weights
    }
    q = _qk_normed(weights, "q_norm", spec, heads["q"])
    if halves is not None:
        _rotate(spec, q, halves, windowed)
    stored, window = KV_TYPES[kv_type], spec.window if windowed else 0
    if "k" in heads:
        k = _qk_normed(weights, "k_norm", spec, heads["k"])
        v = heads.get("v", heads["k"])
        v = ops.rms_norm(v, np.ones(size), spec.norm_epsilon) if spec.value_norm else v
        if halves is not None:
            _rotate(spec, k, halves, windowed)
        kept[windowed] = stored(k), stored(v)
    scale, cap = spec.attention_scale or None, spec.attention_cap
    mixed = ops.attention(q, *kept[windowed], scale=scale, cap=cap, window=window,
                          sinks=weights.get("sinks"))  # fmt: skip
    mixed = mixed.reshape(len(mixed), -1)
    if "q_gate" in weights:
        gate = ops.matmul(h, weights["q_gate"]) + weights.get("q_gate_bias", 0.0)
        mixed = mixed / (1 + np.exp(-gate))
    return beside + ops.matmul(noise(mixed), weights["o"]) + weights.get("o_bias", 0.0)


def _latent_attention(weights, spec, h, halves, kv_type, noise, windowed):
    """Multi-head latent attention to h (T, dim), absorbed: (T, dim)."""
    latent, rotated, heads = spec.kv_latent_dim, spec.rope_dim, spec.n_heads
    if spec.q_latent_dim:
        h_q = noise(ops.rms_norm(ops.matmul(h, weights["q_a"]), weights["q_a_norm"], 1e-6))
        q = ops.matmul(h_q, weights["q_b"])
    else:
        q = ops.matmul(h, weights["q"])
    q = q.reshape(len(h), heads, spec.head_dim)
    kv = ops.matmul(h, weights["kv_a"])[:, None, :]
    shared = np.ascontiguousarray(kv[..., latent:])
    last = np.ascontiguousarray(q[..., -rotated:])
    _rotate(spec, last, halves, windowed)
    _rotate(spec, shared, halves, windowed)
    normed = ops.rms_norm(kv[..., :latent], weights["kv_a_norm"], 1e-6)
    kept = KV_TYPES[kv_type](np.concatenate([normed, shared], axis=-1)).astype(np.float64)
    queries = ops.heads_matmul(q[..., :-rotated], weights["k_b"])
    mixed = ops.attention(
        np.concatenate([queries, last], axis=-1), kept, kept[..., :latent],
        scale=spec.attention_scale or spec.head_dim**-0.5, window=spec.window if windowed else 0,
    )  # fmt: skip
    values = ops.heads_matmul(mixed, weights["v_b"])
    return ops.matmul(noise(values.reshape(len(values), -1)), weights["o"])


def _rotate(spec, x, halves, windowed):
    """RoPE on heads (T, heads, size), in place."""
    size, factor = spec.rope_dim or x.shape[-1], spec.rope_factor
    if windowed and spec.window_rope_theta:
        frequencies, factor = ops.rope_frequencies(size, spec.window_rope_theta), 1.0
    else:
        plain = ops.rope_frequencies(size, spec.rope_theta, spec.rope_scaling)
        frequencies = spec.rope_frequencies or plain
        if 0 < spec.rope_switch < len(x):
            frequencies = spec.rope_long_frequencies
    turned = ops.rope(x[..., :size], np.arange(len(x)), frequencies, halves=halves)
    x[..., :size] = factor * turned


def _feed_forward(weights, spec, x, noise):
    """The feed-forward network on x (T, dim), before the residual sum: (T, dim)."""
    norm = "attention_norm" if spec.parallel_residual else "ffn_norm"
    h = noise(_normed(weights, norm, spec, x))
    return _gated(weights, "", spec, h, noise)


def _experts(weights, spec, x, noise):
    """A mixture of experts on x (T, dim), token by token, before the residual sum: (T, dim)."""
    beside = "router_norm" in weights
    weights = weights | {
        name: widened(weight) for name, weight in weights.items() if name.startswith("experts.")
    }
    h = noise(_norm(weights, "experts_norm" if beside else "ffn_norm", spec, x))
    routed = _norm(weights, "router_norm", spec, x) if beside else h
    scores = ops.matmul(routed, weights["router"]) + weights.get("router_bias", 0.0)
    out = np.zeros_like(h)
    if spec.shared_hidden_dim:
        out += _gated(weights, "shared.", spec, h, noise)
    if spec.shared_gate:
        out *= ops.sigmoid(ops.matmul(h, weights["shared_gate"]))
    for t in range(len(h)):
        best, share = ops.route(
            scores[t],
            spec.n_active_experts,
            normalised=spec.topk_normalised,
            sigmoids=spec.router_sigmoid,
            correction=weights.get("router_correction", 0.0),
            groups=spec.expert_groups or 1,
            groups_taken=spec.expert_groups_taken or 1,
            group_best=spec.expert_group_best or 1,
            scale=spec.expert_scale,
        )
        share = share * weights["expert_scales"][best] if beside else share
        for expert, factor in zip(best, share, strict=True):
            out[t] += factor * _gated(weights, f"experts.{expert}.", spec, h[t : t + 1], noise)[0]
    return out


def _beside(weights, spec, x, noise):
    """The sum of the norms of a feed-forward network and of experts: (T, dim)."""
    parts = {"dense": _feed_forward, "experts": _experts}
    return sum(
        ops.rms_norm(
            noise(block(weights, spec, x, noise)), weights[f"{name}_post_norm"], spec.norm_epsilon
        )
        for name, block in parts.items()
    )


def _activated(spec, gate):
    return (ops.gelu if spec.hidden_act is HiddenAct.GELU else ops.silu)(gate)


def _gated(weights, prefix, spec, h, noise):
    """down(activation(gate(h)) * up(h)) of the network, or of one expert; down(activation(up(h)))
    in models without gates."""
    if not spec.ffn_gated:
        up = ops.matmul(h, weights[prefix + "up"]) + weights.get(prefix + "up_bias", 0.0)
        hidden = (ops.gelu if spec.hidden_act is HiddenAct.GELU else ops.silu)(up)
        return _down(weights, prefix, noise(hidden))
    gate, up = (
        ops.matmul(h, weights[prefix + name]) + weights.get(f"{prefix}{name}_bias", 0.0)
        for name in ("gate", "up")
    )
    if spec.hidden_act is HiddenAct.CLAMPED:
        hidden = ops.swiglu_clamped(gate, up, spec.act_limit)
    else:
        hidden = _activated(spec, gate) * up
    return _down(weights, prefix, noise(hidden))


def _down(weights, prefix, hidden):
    """The down projection of hidden units (T, units)."""
    down = ops.matmul(hidden, weights[prefix + "down"])
    return down + weights.get(prefix + "down_bias", 0.0)


def _layer(tensors: Tensors, layer: int) -> dict[str, Weight]:
    prefix = f"layers.{layer}."
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _noise(jitter: float):
    """A function that multiplies by 1 + jitter * a normal number, the same in every run."""
    rng = np.random.default_rng(0)

    def apply(x):
        return x * (1 + jitter * rng.standard_normal(x.shape)) if jitter else x

    return apply


def greedy(logits_after, tokens: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """`count` ids of greedy decoding, and for each the gap to the second best logit.

    logits_after(tokens) gives the logits (T, vocab) of a sequence.
    """
    ids, gaps = list(tokens), []
    for _ in range(count):
        last = logits_after(ids)[-1]
        order = np.argsort(-last, kind="stable")
        ids.append(int(order[0]))
        gaps.append(float(last[order[0]] - last[order[1]]))
    return ids[len(tokens) :], gaps
