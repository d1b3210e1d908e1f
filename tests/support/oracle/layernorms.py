"""Models with LayerNorm, StarCoder2 and StableLM, from Hugging Face's tensors and their papers.

It shares no code with the other oracle, and reads config.json by itself. StableLM 2 12B, of which
there is no fixture, has parallel blocks and norms of heads: `variant` makes such folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Config = dict[str, Any]


def read(folder: Path) -> tuple[Config, dict[str, NDArray[np.float64]]]:
    """The config and the tensors of a folder."""
    stored = load_file(folder / "model.safetensors")
    tensors = {name: tensor.astype(np.float64) for name, tensor in stored.items()}
    return json.loads((folder / "config.json").read_text()), tensors


def forward(folder: Path, tokens) -> NDArray[np.float64]:
    """Logits (T, vocab) after each token."""
    config, tensors = read(folder)
    epsilon = config.get("layer_norm_eps", config.get("norm_epsilon"))

    def norm(name, x):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon)
        return x * tensors[name + ".weight"] + tensors.get(name + ".bias", 0)

    def linear(name, x):
        return x @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0)

    x = tensors["model.embed_tokens.weight"][list(tokens)]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        read_by_attention = norm(at + "input_layernorm", x)
        mixed = attention(config, at + "self_attn.", read_by_attention, linear, norm)
        if config.get("use_parallel_residual"):
            x = x + mixed + network(at + "mlp.", tensors, read_by_attention, linear)
        else:
            x = x + mixed
            x = x + network(at + "mlp.", tensors, norm(at + "post_attention_layernorm", x), linear)
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return linear(head, norm("model.norm", x))


def network(at, tensors, x, linear):
    """SwiGLU, or two matrices with the tanh approximation of GELU between them."""
    if at + "c_fc.weight" in tensors:
        h = linear(at + "c_fc", x)
        h = h * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        return linear(at + "c_proj", h)
    gate = linear(at + "gate_proj", x)
    return linear(at + "down_proj", gate / (1 + np.exp(-gate)) * linear(at + "up_proj", x))


def attention(config, at, x, linear, norm):
    """Attention with RoPE on the first numbers of each head: pair i of n is (i, i + n)."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    q, k, v = (
        linear(f"{at}{name}_proj", x).reshape(len(x), count, -1)
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
    )
    size = q.shape[-1]
    if config.get("qk_layernorm"):
        for name, some in (("q", q), ("k", k)):
            for head in range(some.shape[1]):
                some[:, head] = norm(f"{at}{name}_layernorm.norms.{head}", some[:, head])
    rope = config["rope_parameters"]
    half = int(size * rope.get("partial_rotary_factor", 1)) // 2
    angles = np.outer(np.arange(len(x)), rope["rope_theta"] ** (-np.arange(half) / half))
    for some in (q, k):
        a, b = some[..., :half].copy(), some[..., half : 2 * half].copy()
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        some[..., :half], some[..., half : 2 * half] = a * cos - b * sin, b * cos + a * sin
    distance = np.arange(len(x))[:, None] - np.arange(len(x))
    seen = (distance >= 0) & (distance < (config.get("sliding_window") or len(x)))
    out = np.empty_like(q)
    for head in range(heads):
        other = head * kv_heads // heads
        scores = np.where(seen, q[:, head] @ k[:, other].T / np.sqrt(size), -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, other]
    return linear(at + "o_proj", out.reshape(len(x), -1))


def variant(source: Path, folder: Path, *, parallel: bool, norms: bool, bias: bool) -> Path:
    """Write StableLM with the blocks of StableLM 2 12B.

    Args:
        source: the folder of a StableLM.
        folder: the new folder.
        parallel: whether its blocks are parallel.
        norms: whether heads of q and k have norms.
        bias: whether q, k and v have biases.
    """
    config = json.loads((source / "config.json").read_text())
    config |= {"use_parallel_residual": parallel, "qk_layernorm": norms, "use_qkv_bias": bias}
    tensors, rng = load_file(source / "model.safetensors"), np.random.default_rng(7)
    size = config["hidden_size"] // config["num_attention_heads"]
    counts = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    for name in [*tensors]:
        if (parallel and "post_attention" in name) or (not bias and "_proj.bias" in name):
            del tensors[name]
    for layer in range(config["num_hidden_layers"] if norms else 0):
        for name, count in counts.items():
            for head in range(count):
                where = f"model.layers.{layer}.self_attn.{name}_layernorm.norms.{head}.weight"
                tensors[where] = rng.uniform(0.5, 1.5, size).astype(np.float16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
