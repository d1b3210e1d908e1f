"""The forward pass of Grok-1, written from xAI's model.py, and tiny models with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[np.float64]

CONFIG = {
    "architectures": ["Grok1ModelForCausalLM"],
    "vocab_size": 192,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attn_output_multiplier": 0.08838834764831845,
    "embedding_multiplier_scale": 78.38367176906169,
    "output_multiplier_scale": 0.5773502691896257,
    "max_attn_value": 30.0,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "num_experts_per_tok": 2,
    "num_experts": 8,
}


def tensors(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights under the names of the Hugging Face port.

    Queries and keys are so large that many scores come near the cap.
    """
    rng = np.random.default_rng(seed)
    dim, kv = 128, 64

    def matrix(rows: int, cols: int, gain: float = 1.0) -> NDArray[np.float32]:
        return (gain / np.sqrt(cols) * rng.standard_normal((rows, cols))).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, dim).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(192, dim, 0.3), "model.norm.scale": norm()}
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes = {"q": (dim, dim, 8), "k": (kv, dim, 8), "v": (kv, dim, 1), "o": (dim, dim, 1)}
        for name, shape in shapes.items():
            found[f"{at}attn.{name}_proj.weight"] = matrix(*shape)
        for name in ("pre_attn", "post_attn", "pre_moe", "post_moe"):
            found[f"{at}{name}_norm.scale"] = norm()
        found[at + "moe_block.gate.weight"] = matrix(8, dim)
        for expert in range(8):
            for name in ("linear", "linear_1", "linear_v"):
                found[f"{at}moe_block.experts.{expert}.{name}.weight"] = matrix(dim, dim)
    return found


def write_folder(folder: Path, weights: dict[str, Any], **changes: Any) -> Path:
    """A Hugging Face folder of the weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(weights, folder / "model.safetensors")
    return folder


def forward(weights: dict[str, Any], tokens: Sequence[int]) -> Array:
    """Logits float64 (T, vocab) after each of the tokens."""
    w = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    h = w["model.embed_tokens.weight"][list(tokens)] * CONFIG["embedding_multiplier_scale"]
    for layer in range(2):
        at = f"model.layers.{layer}."
        y = _attention(w, at + "attn.", _norm(h, w[at + "pre_attn_norm.scale"]))
        h = h + _norm(y, w[at + "post_attn_norm.scale"])
        y = _experts(w, at + "moe_block.", _norm(h, w[at + "pre_moe_norm.scale"]))
        h = h + _norm(y, w[at + "post_moe_norm.scale"])
    h = _norm(h, w["model.norm.scale"])
    return h @ w["model.embed_tokens.weight"].T * CONFIG["output_multiplier_scale"]


def _norm(x: Array, scale: Array) -> Array:
    return scale * (x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5))


def _attention(w: dict[str, Array], at: str, x: Array) -> Array:
    """Scores times the multiplier, under the cap, then masked."""
    count = len(x)
    q, k, v = ((x @ w[f"{at}{n}_proj.weight"].T).reshape(count, -1, 32) for n in "qkv")
    q, k = _rotate(q), np.repeat(_rotate(k), 2, axis=1)
    scores = np.einsum("thd,Thd->htT", q, k) * CONFIG["attn_output_multiplier"]
    scores = 30.0 * np.tanh(scores / 30.0)
    scores = np.where(np.tril(np.ones((count, count), bool)), scores, -1e30)
    mixed = np.einsum("htT,Thd->thd", _softmax(scores), np.repeat(v, 2, axis=1))
    return mixed.reshape(count, -1) @ w[at + "o_proj.weight"].T


def _rotate(x: Array) -> Array:
    """x cos + (-second half, first half) sin; heads of 32."""
    frequencies = 1.0 / 10000 ** (np.arange(0, 32, 2) / 32)
    phase = np.tile(np.outer(np.arange(len(x)), frequencies), (1, 2))[:, None, :]
    halves = np.concatenate([-x[..., 16:], x[..., :16]], axis=-1)
    return x * np.cos(phase) + halves * np.sin(phase)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _experts(w: dict[str, Array], at: str, x: Array) -> Array:
    """All experts for all tokens; those that are not among the best two count zero."""
    gate = _softmax(x @ w[at + "gate.weight"].T)
    gate = np.where(gate >= np.sort(gate, axis=-1)[:, -2:-1], gate, 0.0)
    out = np.zeros_like(x)
    for expert in range(8):
        linear, linear_1, linear_v = (
            w[f"{at}experts.{expert}.{name}.weight"] for name in ("linear", "linear_1", "linear_v")
        )
        a = x @ linear.T
        gelu = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        out += gate[:, expert : expert + 1] * ((gelu * (x @ linear_v.T)) @ linear_1.T)
    return out
