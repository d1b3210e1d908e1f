"""What llama.cpp's converter makes of models with experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from ggufbase import Config, Tensors, base, full_rope, rotated
from numpy.typing import NDArray


def moe_keys(config: Config) -> Config:
    """Qwen with experts."""
    return {
        **base(config),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.get("shared_expert_intermediate_size"),
    }


def gpt_oss_keys(config: Config) -> Config:
    """gpt-oss: the width of experts is the only one."""
    return {
        **base(config),
        "attention.sliding_window": config["sliding_window"],
        "expert_feed_forward_length": config["intermediate_size"],
    }


def gpt_oss_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Gate and up apart, both with the outputs as rows. Blocks of MXFP4 stay what they are."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        stem, _, rest = name.partition("_proj")
        if name.endswith("sinks"):
            found[f"{name}.weight"] = tensor
        elif ".experts." not in name:
            found[name] = tensor
        elif rest != "_scales":
            kind = "bias" if rest == "_bias" else "weight"
            value = tensor.swapaxes(1, 2) if rest == "" else tensor
            if rest == "_blocks":
                value = mxfp4(tensor, tensors[f"{stem}_proj_scales"])
            if not stem.endswith("gate_up"):
                found[f"{stem}_proj.{kind}"] = value
                continue
            stem = stem.removesuffix("gate_up")
            found[f"{stem}gate_proj.{kind}"] = value[:, ::2]
            found[f"{stem}up_proj.{kind}"] = value[:, 1::2]
    return found


def mxfp4(blocks: NDArray[Any], scales: NDArray[Any]) -> NDArray[np.uint8]:
    """Blocks as ggml stores them: the scale, then value i and value i + 16 in byte i.

    Args:
        blocks: (experts, rows, n, 16), with value 2 i and value 2 i + 1 in byte i.
        scales: (experts, rows, n).
    """
    low, high = blocks.astype(np.uint8) & 15, blocks.astype(np.uint8) >> 4
    values = np.stack((low, high), axis=-1).reshape(*blocks.shape[:-1], 32)
    packed = values[..., :16] | values[..., 16:] << 4
    whole = np.concatenate((scales.astype(np.uint8)[..., None], packed), axis=-1)
    return whole.reshape(*blocks.shape[:2], -1)


def glm4_moe_keys(config: Config) -> Config:
    """GLM-4 with experts, without the layers that predict further tokens."""
    return {
        **base(config),
        "rope.dimension_count": rotated(config),
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "leading_dense_block_count": config["first_k_dense_replace"],
        "expert_gating_func": 2,
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_weights_norm": config["norm_topk_prob"],
    }


def deepseek_keys(config: Config) -> Config:
    """DeepSeek V2 and V3: the cache holds one KV head, the latent vector and what RoPE rotates."""
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    mscale = full_rope(config).get("mscale_all_dim")
    usual = "sigmoid" if config["model_type"] == "deepseek_v3" else "softmax"
    return {
        **base({**config, "num_key_value_heads": 1, "head_dim": None}),
        "vocab_size": config["vocab_size"],
        "leading_dense_block_count": config["first_k_dense_replace"],
        "attention.q_lora_rank": config["q_lora_rank"],
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": config["qk_nope_head_dim"] + rope,
        "attention.value_length_mla": config["v_head_dim"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_weights_norm": config["norm_topk_prob"] or None,
        "expert_gating_func": {"softmax": 1, "sigmoid": 2}[config.get("scoring_func", usual)],
        "rope.dimension_count": rope,
        "rope.scaling.yarn_log_multiplier": None if mscale is None else 0.1 * mscale,
    }


def deepseek_tensors(tensors: Tensors, config: Config) -> Tensors:
    """The up-projection of keys and that of values apart, by heads; that of keys transposed."""
    heads, nope = config["num_attention_heads"], config["qk_nope_head_dim"]
    found: Tensors = {}
    for name, tensor in tensors.items():
        if not name.endswith("kv_b_proj.weight"):
            found[name] = tensor
            continue
        split = tensor.reshape(heads, -1, tensor.shape[-1])
        found[name.replace("kv_b", "k_b")] = split[:, :nope].swapaxes(1, 2)
        found[name.replace("kv_b", "v_b")] = split[:, nope:]
    return found
