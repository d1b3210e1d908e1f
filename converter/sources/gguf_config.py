"""Translates GGUF metadata and tensor names to Hugging Face's.

Keys and names are those of gguf-py/gguf/constants.py of github.com/ggml-org/llama.cpp. Its
converter writes the architecture "llama" for everything built like Llama, Mistral or Mixtral.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.converter.sources.gguf_header import typed
from dllama.errors import UnsupportedError

Metadata = dict[str, Any]

# model_type of config.json for each architecture.
MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
# Metadata key, after the architecture and a dot, for each field of config.json.
FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_up": "mlp.up_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# Names of router and experts in Mixtral and in Qwen.
MIXTRAL = {"gate_inp": "gate", "gate": "w1", "down": "w2", "up": "w3"}
QWEN = {"gate_inp": "gate", "gate": "gate_proj", "down": "down_proj", "up": "up_proj"}
FREQUENCIES = "rope_freqs.weight"
# Llama 3.1's low_freq_factor and high_freq_factor.
LOW, HIGH = 1.0, 4.0


def read_config(
    metadata: Metadata, tensors: Collection[str], factors: NDArray[np.float32] | None, path: Path
) -> dict[str, Any]:
    """Build a config.json, all but vocab_size.

    Args:
        metadata: of the GGUF file.
        tensors: GGUF's names.
        factors: the tensor rope_freqs.weight, or None.
        path: the file.

    Raises:
        UnsupportedError, FormatError: a config.json cannot represent the metadata.
    """
    arch = typed(metadata, "general.architecture", str, path)
    if arch is None or arch not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise UnsupportedError(f"{path}: architecture {arch!r} is not supported, only {known}")
    found = {
        field: _scalar(metadata, f"{arch}.{key}", path)
        for field, key in FIELDS.items()
        if f"{arch}.{key}" in metadata
    }
    config = {
        **found,
        "model_type": MODEL_TYPES[arch],
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_scaling": _rope_scaling(metadata, arch, found, factors, path),
    }
    config |= dict.fromkeys(_biases(arch, tensors), True)
    if arch == "llama" and found.get("num_experts"):
        config["model_type"] = "mixtral"
    if arch == "qwen3moe":
        config["norm_topk_prob"] = True  # what llama.cpp assumes
    _check_heads(metadata, arch, found, path)
    return config


def hugging_face_name(name: str, model_type: str) -> str | None:
    """Return Hugging Face's name of a tensor, or None if there is none.

    For a tensor that holds all experts, the name has {} in place of the expert's number.
    """
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+?)(?:\.(\d+))?\.(weight|bias)", name)
    if match is None:
        return None
    layer, stem, expert, kind = match.groups()
    prefix = "" if layer is None else f"model.layers.{layer}."
    if stem in NAMES and expert is None:
        return f"{prefix}{NAMES[stem]}.{kind}"
    of_experts = re.fullmatch(r"ffn_(gate_inp|gate|down|up)(_exps)?", stem)
    if of_experts is None or layer is None:
        return None
    module, names = _expert_names(model_type)
    if of_experts[1] == "gate_inp":
        return f"{prefix}{module}.gate.{kind}"
    number = expert if of_experts[2] is None else "{}"
    return f"{prefix}{module}.experts.{number}.{names[of_experts[1]]}.{kind}"


def _biases(arch: str, tensors: Collection[str]) -> set[str]:
    """Return the config fields for biases; Qwen2's biases of q, k and v need none."""
    stems = {name.split(".")[-2] for name in tensors if name.endswith(".bias")}
    stems -= {"attn_q", "attn_k", "attn_v"} if arch == "qwen2" else set()
    return {"mlp_bias" if stem.startswith("ffn") else "attention_bias" for stem in stems}


def _expert_names(model_type: str) -> tuple[str, dict[str, str]]:
    return ("block_sparse_moe", MIXTRAL) if model_type == "mixtral" else ("mlp", QWEN)


def _scalar(metadata: Metadata, key: str, path: Path) -> Any:
    """Return a value. A list with a value per layer must hold equal values, which become one.

    A float32 becomes the shortest decimal number that rounds to it.
    """
    value = metadata[key]
    if isinstance(value, np.ndarray):
        values = set(value.tolist())
        if len(values) != 1:
            raise UnsupportedError(f"{path}: {key} differs between layers")
        (value,) = values
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _check_heads(metadata: Metadata, arch: str, config: dict[str, Any], path: Path) -> None:
    """Raise UnsupportedError if the sizes of q/k heads, v heads and RoPE differ."""
    try:
        default = config["hidden_size"] // config["num_attention_heads"]
    except (KeyError, TypeError, ZeroDivisionError):
        return  # the family reports what is wrong
    size = config.get("head_dim", default)
    for key in ("attention.value_length", "rope.dimension_count"):
        whole = f"{arch}.{key}"
        found = _scalar(metadata, whole, path) if whole in metadata else size
        if found != size:
            raise UnsupportedError(f"{path}: {whole} is {found}, only {size} is supported")


def _rope_scaling(
    metadata: Metadata,
    arch: str,
    config: dict[str, Any],
    factors: NDArray[np.float32] | None,
    path: Path,
) -> dict[str, Any] | None:
    """Build rope_scaling of a config.json from the metadata, or from Llama 3.1's factors."""
    kind = typed(metadata, f"{arch}.rope.scaling.type", str, path, "none")
    if kind != "none":
        return {"rope_type": kind, "factor": metadata.get(f"{arch}.rope.scaling.factor")}
    theta = config.get("rope_theta", 10000.0)
    if factors is None or not isinstance(theta, float) or not 0 < theta < math.inf:
        return None  # the family reports an invalid theta
    if not np.isfinite(factors).all() or factors.min() < 1:
        raise UnsupportedError(f"{path}: the factors in {FREQUENCIES} are not Llama 3.1's")
    factor = float(factors.max())
    wavelengths = 2 * math.pi * theta ** (np.arange(len(factors)) / len(factors))
    seq_len = _original_context(factors.astype(np.float64), wavelengths, factor)
    expected = _llama3_factors(wavelengths, factor, seq_len)
    if not np.allclose(factors, expected, rtol=1e-4):
        raise UnsupportedError(f"{path}: the factors in {FREQUENCIES} are not Llama 3.1's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": seq_len,
    }


def _original_context(
    factors: NDArray[np.float64], wavelengths: NDArray[np.float64], factor: float
) -> int:
    """Derive the original context from a factor between 1 and `factor`; 0 if there is none."""
    between = (factors > 1.001) & (factors < factor * 0.999)
    if not between.any():
        return 0
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    return round(float(np.median(wavelengths[between] * (LOW + smooth * (HIGH - LOW)))))


def _llama3_factors(
    wavelengths: NDArray[np.float64], factor: float, seq_len: int
) -> NDArray[np.float64]:
    """Return the divisors of the frequencies ("llama3" in transformers' modeling_rope_utils.py)."""
    smooth = np.clip((seq_len / wavelengths - LOW) / (HIGH - LOW), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
