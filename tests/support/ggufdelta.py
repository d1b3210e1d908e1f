"""What llama.cpp's converter makes of models with gated delta networks, and with Mamba-2."""

from __future__ import annotations

from typing import Any

import numpy as np
from ggufbase import Config, Tensors, base, full_rope, rotated
from ggufmixtures import moe_keys
from numpy.typing import NDArray


def delta_keys(config: Config) -> Config:
    """Sizes of gated delta networks, and which layers have them."""
    values = config["linear_num_value_heads"]
    return {
        **base(config),
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": values,
        "ssm.inner_size": config["linear_value_head_dim"] * values,
        "attention.recurrent_layers": [kind[0] == "l" for kind in config["layer_types"]],
        "full_attention_interval": config.get("full_attention_interval", 4),
        "rope.dimension_count": rotated(config),
    }


def qwen3_next_keys(config: Config) -> Config:
    """Qwen3-Next: as Qwen3.5 with experts, but for what is about images."""
    return {**delta_keys(config), **moe_keys(config)}


def qwen35_keys(config: Config) -> Config:
    """Qwen3.5."""
    sections = [*full_rope(config)["mrope_section"], 0]
    return {**delta_keys(config), "rope.dimension_sections": sections}


def qwen35_moe_keys(config: Config) -> Config:
    """Qwen3.5 with experts."""
    return {**qwen35_keys(config), **moe_keys(config)}


def delta_tensors(tensors: Tensors) -> Tensors:
    """Norms with their 1, -exp(A_log), a matrix of the taps; nothing that predicts further."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        part = name.rpartition("linear_attn.")[2].removesuffix(".weight")
        if name.startswith("mtp."):
            continue
        if part == "conv1d":
            found[name] = tensor.reshape(len(tensor), -1)
        elif part in ("A_log", "dt_bias"):
            new = name.replace(".dt_bias", ".dt_proj.bias")
            found[new] = -np.exp(tensor) if part == "A_log" else tensor
        else:
            found[name] = tensor + (name.endswith("norm.weight") and part != "norm")
    return found


def qwen35_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Value heads one of each key head after another."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    before, size = 2 * keys * config["linear_key_head_dim"], config["linear_value_head_dim"]

    def tiled(rows: NDArray[Any], of: int) -> NDArray[Any]:
        grouped = rows.reshape(keys, values // keys, of, *rows.shape[1:])
        return grouped.swapaxes(0, 1).reshape(rows.shape)

    found: Tensors = {}
    for name, tensor in tensors.items():
        part = name.rpartition("linear_attn.")[2].removesuffix(".weight")
        if part in ("in_proj_qkv", "conv1d"):
            found[name] = np.concatenate([tensor[:before], tiled(tensor[before:], size)])
        elif part in ("in_proj_a", "in_proj_b", "A_log", "dt_bias"):
            found[name] = tiled(tensor, 1)
        elif part == "in_proj_z":
            found[name] = tiled(tensor, size)
        elif part == "out_proj":
            found[name] = tiled(tensor.T, size).T.copy()
        else:
            found[name] = tensor
    return delta_tensors(found)


def qwen3_next_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Rows of q of all key heads, then those of k and of v; those of z apart."""
    keys, size = config["linear_num_key_heads"], config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] // keys * config["linear_value_head_dim"]
    found: Tensors = {}
    for name, tensor in tensors.items():
        if "in_proj_qkvz" not in name:
            found[name] = tensor
            continue
        heads = tensor.reshape(keys, -1, tensor.shape[-1])
        ends = np.cumsum([size, size, values])
        q, k, v, z = (part.reshape(-1, tensor.shape[-1]) for part in np.split(heads, ends, axis=1))
        found[name.replace("qkvz", "qkv")] = np.concatenate([q, k, v])
        found[name.replace("qkvz", "z")] = z
    return delta_tensors(found)


def falcon_h1_keys(config: Config) -> Config:
    """Falcon-H1: sizes of Mamba-2."""
    heads = config["mamba_n_heads"]
    width = config["mamba_d_ssm"] or config["mamba_expand"] * config["hidden_size"]
    return {
        **base(config),
        "vocab_size": config["vocab_size"],
        "ssm.conv_kernel": config["mamba_d_conv"],
        "ssm.state_size": config["mamba_d_state"],
        "ssm.group_count": config["mamba_n_groups"],
        "ssm.time_step_rank": heads,
        "ssm.inner_size": width,
    }


def falcon_h1_tensors(tensors: Tensors, config: Config) -> Tensors:
    """All multipliers in the matrices, -exp(A_log), and vectors as matrices."""
    one = config["attention_in_multiplier"]
    gate, down = config["mlp_multipliers"]
    groups, heads = config["mamba_n_groups"], config["mamba_n_heads"]
    keys = groups * config["mamba_d_state"]
    values = config["mamba_d_head"] * heads
    parts = np.repeat(config["ssm_multipliers"], [values, values, keys, keys, heads])
    factors = {
        "down_proj.weight": down, "gate_proj.weight": gate, "q_proj.weight": one,
        "k_proj.weight": config["key_multiplier"] * one, "v_proj.weight": one,
        "o_proj.weight": config["attention_out_multiplier"],
        "out_proj.weight": config["ssm_out_multiplier"],
        "in_proj.weight": config["ssm_in_multiplier"] * parts[:, None],
        "lm_head.weight": config["lm_head_multiplier"],
        "embed_tokens.weight": config["embedding_multiplier"],
    }  # fmt: skip
    found: Tensors = {}
    for name, tensor in tensors.items():
        stem = name if name == "lm_head.weight" else ".".join(name.split(".")[-2:])
        part, numbers = name.rpartition("mamba.")[2], tensor.astype(np.float32)
        numbers = (numbers * factors.get(stem, 1.0)).astype(np.float32)
        if part == "conv1d.weight":
            numbers = numbers.reshape(len(numbers), -1)
        elif part in ("A_log", "D"):
            numbers = (-np.exp(numbers) if part == "A_log" else numbers)[:, None]
        elif part == "norm.weight":
            numbers = numbers.reshape(groups, -1)
        found[name.replace(".dt_bias", ".dt_proj.bias")] = numbers
    return found
