"""What llama.cpp's converter makes of Gemma 4."""

from __future__ import annotations

import numpy as np
from ggufbase import Config, Tensors, base, full_rope


def full_heads(config: Config) -> tuple[int, int | None]:
    """Elements of a head, and KV heads if the config names them, in layers without a window."""
    own = next(iter((config.get("per_layer_config") or {}).values()), {})
    size = own.get("head_dim") or config.get("global_head_dim", 512)
    return size, own.get("num_key_value_heads") or config.get("num_global_key_value_heads")


def gemma4_keys(config: Config) -> Config:
    """Sizes of heads for both kinds of layers; lists of what differs between layers."""
    windowed = [kind == "sliding_attention" for kind in config["layer_types"]]
    layers, shared, width = (
        len(windowed),
        config["num_kv_shared_layers"],
        config["intermediate_size"],
    )
    size, kv_heads = full_heads(config)
    wide = config["use_double_wide_mlp"]
    widths = [width * (1 + (wide and layer >= layers - shared)) for layer in range(layers)]
    usual = config["num_key_value_heads"]
    keys = {
        **base(config),
        "final_logit_softcapping": config["final_logit_softcapping"],
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": windowed,
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": config["hidden_size_per_layer_input"] or 0,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.key_length_swa": config["head_dim"],
        "attention.value_length_swa": config["head_dim"],
        "expert_used_count": config["top_k_experts"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "rope.dimension_count": size,
        "rope.dimension_count_swa": config["head_dim"],
    }
    if wide:
        keys["feed_forward_length"] = widths
    if kv_heads:
        keys["attention.head_count_kv"] = [usual if one else kv_heads for one in windowed]
    return keys


def gemma4_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Scales of the router and of experts, and factors for pairs that are not rotated."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        layer = name.split(".")[2]
        if name.endswith("router.scale"):
            name = f"blk.{layer}.ffn_gate_inp.scale"
        elif name.endswith("per_expert_scale"):
            name = f"blk.{layer}.ffn_down_exps.scale"
        elif name.endswith("layer_scalar") or ".experts." in name:
            name += ".weight"
        found[name] = tensor
    half = full_heads(config)[0] // 2
    rotated = int(half * full_rope(config)["partial_rotary_factor"])
    factors = np.where(np.arange(half) < rotated, 1.0, 1e30)
    return {**found, "rope_freqs.weight": factors.astype(np.float32)}
