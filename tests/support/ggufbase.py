"""What llama.cpp's converter writes for most architectures. Keys come without the architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
Config = dict[str, Any]
ROPES = {"linear": "linear", "yarn": "yarn", "longrope": "longrope"}


def base(config: Config) -> Config:
    """The keys that are the same for most architectures."""
    rope = full_rope(config)
    window = (config.get("rope_parameters") or {}).get("sliding_attention", {})
    keys = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config.get("head_dim"),
        "attention.value_length": config.get("head_dim"),
        "attention.layer_norm_rms_epsilon": config.get("rms_norm_eps"),
        "expert_count": first(config, "num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": config.get("num_experts_per_tok"),
        "expert_group_count": config.get("n_group"),
        "expert_group_used_count": config.get("topk_group"),
        "rope.freq_base": rope["rope_theta"],
        "rope.freq_base_swa": window.get("rope_theta"),
        "rope.scaling.type": ROPES.get(rope["rope_type"]),
    }
    if rope["rope_type"] in ("linear", "yarn"):
        keys["rope.scaling.factor"] = rope["factor"]
    if rope["rope_type"] == "yarn":
        keys |= {
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_attn_factor": rope.get("attention_factor"),
            "rope.scaling.yarn_beta_fast": rope.get("beta_fast"),
            "rope.scaling.yarn_beta_slow": rope.get("beta_slow"),
        }
    return keys


def first(config: Config, *names: str) -> Any:
    """The first field that is there, or None."""
    return next((config[name] for name in names if config.get(name) is not None), None)


def full_rope(config: Config) -> Config:
    """rope_parameters of the layers without a sliding window."""
    rope = config["rope_parameters"]
    return rope.get("full_attention", rope)


def head_dim(config: Config) -> int:
    """Elements of a head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def rotated(config: Config) -> int:
    """Numbers of a head that RoPE rotates."""
    return int(head_dim(config) * full_rope(config).get("partial_rotary_factor", 1))


def same(tensors: Tensors, config: Config) -> Tensors:
    """The tensors, unchanged."""
    return tensors


@dataclass(frozen=True)
class Writer:
    """How a model_type is written.

    Args:
        arch: the architecture.
        keys: its metadata; None stands for a key that is not written.
        tensors: from Hugging Face's tensors to those that the package gguf has names for.
    """

    arch: gguf.MODEL_ARCH
    keys: Callable[[Config], Config] = base
    tensors: Callable[[Tensors, Config], Tensors] = same
