"""What llama.cpp's converter makes of each model_type: keys of the metadata, and tensors.

Names are left to the package gguf, which has the same tables. A key comes without the architecture.
"""

from __future__ import annotations

import math
import re
from typing import Any

import gguf
import numpy as np
from ggufbase import Config, Tensors, Writer, base, full_rope, head_dim, rotated
from ggufdelta import (
    falcon_h1_keys,
    falcon_h1_tensors,
    qwen3_next_keys,
    qwen3_next_tensors,
    qwen35_keys,
    qwen35_moe_keys,
    qwen35_tensors,
)
from ggufgemma4 import gemma4_keys, gemma4_tensors
from ggufmixtures import (
    deepseek_keys,
    deepseek_tensors,
    glm4_moe_keys,
    gpt_oss_keys,
    gpt_oss_tensors,
    moe_keys,
)
from numpy.typing import NDArray
from oracle.huggingface import paired


def llama_keys(config: Config) -> Config:
    """Llama and what is written like it."""
    return {
        **base(config),
        "vocab_size": config["vocab_size"],
        "rope.dimension_count": head_dim(config),
    }


def llama_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Rows of q and k for RoPE on adjacent pairs, and factors of frequencies."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    found = {}
    for name, tensor in tensors.items():
        count = next((count for stem, count in heads.items() if stem in name), 0)
        found[name] = paired(tensor, count) if count else tensor
    rope = full_rope(config)
    if rope["rope_type"] == "llama3":
        found["rope_freqs.weight"] = frequency_factors(rope, head_dim(config))
    return found


def frequency_factors(rope: Config, size: int) -> NDArray[np.float32]:
    """Return the factors for Llama 3.1's frequencies, case by case."""
    factors = []
    old = rope["original_max_position_embeddings"]
    low, high = old / rope["low_freq_factor"], old / rope["high_freq_factor"]
    for index in range(0, size, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (index / size)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = (old / wavelength - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def granite_keys(config: Config) -> Config:
    """Granite: four multipliers."""
    return {
        **llama_keys(config),
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "attention.scale": config["attention_multiplier"],
        "logit_scale": config["logits_scaling"],
    }


def gemma2_keys(config: Config) -> Config:
    """Gemma 2: no keys about RoPE, and none about which layers have the window."""
    keys = {key: value for key, value in base(config).items() if not key.startswith("rope")}
    return {
        **keys,
        "attn_logit_softcapping": config["attn_logit_softcapping"],
        "final_logit_softcapping": config["final_logit_softcapping"],
        "attention.sliding_window": config["sliding_window"],
    }


def gemma3_keys(config: Config) -> Config:
    """Gemma 3. Which layers have the window only stands there if it is not the usual pattern."""
    pattern = [kind == "sliding_attention" for kind in config["layer_types"]]
    usual = [(layer + 1) % 6 != 0 for layer in range(len(pattern))]
    return {
        **base(config),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": None if pattern == usual else pattern,
    }


def gemma_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Norms with the 1 that Gemma adds.

    No key can say another scale of scores than 1 / sqrt(head_dim), so the rest of it goes into the
    queries or their norm.
    """
    rest = math.sqrt(head_dim(config) / config["query_pre_attn_scalar"])
    found = {}
    for name, tensor in tensors.items():
        scaled = "self_attn.q_norm" if config["model_type"] != "gemma2" else "self_attn.q_proj"
        factor = rest if scaled in name else 1
        found[name] = (tensor + name.endswith("norm.weight")) * np.float32(factor)
    return found


def phi3_keys(config: Config) -> Config:
    """Phi-3 and Phi-4: a window of 0 stands for none, longrope has its own factor."""
    rope = full_rope(config)
    old = rope.get("original_max_position_embeddings") or config.get(
        "original_max_position_embeddings", config["max_position_embeddings"]
    )
    scale = config["max_position_embeddings"] / old
    factor = math.sqrt(1 + math.log(scale) / math.log(old)) if scale > 1 else 1.0
    return {
        **base(config),
        "rope.scaling.original_context_length": old,
        "rope.dimension_count": rotated(config),
        "rope.scaling.type": None,  # the converter writes no type for Phi
        "rope.scaling.attn_factor": factor if rope.get("long_factor") else None,
        "attention.sliding_window": config.get("sliding_window") or 0,
    }


def phi3_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Factors of longrope as tensors."""
    rope = full_rope(config)
    factors = {
        f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"], np.float32)
        for name in ("long", "short")
        if rope.get(f"{name}_factor")
    }
    return {**tensors, **factors}


def olmo2_keys(config: Config) -> Config:
    """OLMo 2, and OLMo 3 with windows."""
    windowed = [kind == "sliding_attention" for kind in config.get("layer_types") or ()]
    return {
        **base(config),
        "attention.sliding_window": config.get("sliding_window"),
        "attention.sliding_window_pattern": windowed or None,
    }


def exaone4_keys(config: Config) -> Config:
    """EXAONE 4: which layers have the window, if there is one."""
    kinds = config.get("layer_types") or ()
    window = config.get("sliding_window")
    return {
        **base(config),
        "vocab_size": config["vocab_size"],
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in kinds]
        if window
        else None,
    }


def granite_moe_tensors(tensors: Tensors, config: Config) -> Tensors:
    """Gate and up of all experts apart."""
    found: Tensors = {}
    for name, tensor in llama_tensors(tensors, config).items():
        if "input_linear" in name:
            gate, up = np.split(tensor, 2, axis=1)
            stem = name.partition("block_sparse_moe")[0] + "mlp.experts"
            found[f"{stem}.gate_proj.weight"], found[f"{stem}.up_proj.weight"] = gate, up
        else:
            found[name] = tensor
    return found


def glm4_keys(config: Config) -> Config:
    """GLM-4: RoPE rotates a part of a head."""
    return {**base(config), "rope.dimension_count": rotated(config)}


def starcoder2_keys(config: Config) -> Config:
    """StarCoder2: the sliding window is not written."""
    return {**base(config), "attention.layer_norm_epsilon": config["norm_epsilon"]}


def stablelm_keys(config: Config) -> Config:
    """StableLM: nothing about RoPE but how many numbers it rotates."""
    keys = {key: value for key, value in base(config).items() if not key.startswith("rope")}
    return {
        **keys,
        "attention.layer_norm_epsilon": config["layer_norm_eps"],
        "use_parallel_residual": config["use_parallel_residual"],
        "rope.dimension_count": rotated(config),
    }


def stablelm_tensors(tensors: Tensors, config: Config) -> Tensors:
    """The norms of all heads as one tensor."""
    found: Tensors = {}
    heads: dict[str, dict[int, NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        stem, _, rest = name.partition(".norms.")
        if rest:
            heads.setdefault(f"{stem}.weight", {})[int(rest.partition(".")[0])] = tensor
        else:
            found[name] = tensor
    return found | {name: np.stack([one[n] for n in sorted(one)]) for name, one in heads.items()}


A = gguf.MODEL_ARCH
LLAMA = Writer(A.LLAMA, llama_keys, llama_tensors)
WRITERS = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": LLAMA,
    "qwen2": Writer(A.QWEN2),
    "qwen3": Writer(A.QWEN3),
    "qwen2_moe": Writer(A.QWEN2MOE, moe_keys),
    "qwen3_moe": Writer(A.QWEN3MOE, moe_keys),
    "granite": Writer(A.GRANITE, granite_keys, llama_tensors),
    "smollm3": Writer(A.SMOLLM3, llama_keys, llama_tensors),
    "gemma2": Writer(A.GEMMA2, gemma2_keys, gemma_tensors),
    "gemma3_text": Writer(A.GEMMA3, gemma3_keys, gemma_tensors),
    "gemma4_text": Writer(A.GEMMA4, gemma4_keys, gemma4_tensors),
    "phi3": Writer(A.PHI3, phi3_keys, phi3_tensors),
    "olmo2": Writer(A.OLMO2, olmo2_keys),
    "exaone4": Writer(A.EXAONE4, exaone4_keys),
    "granitemoe": Writer(A.GRANITE_MOE, granite_keys, granite_moe_tensors),
    "qwen3_5_text": Writer(A.QWEN35, qwen35_keys, qwen35_tensors),
    "qwen3_5_moe_text": Writer(A.QWEN35MOE, qwen35_moe_keys, qwen35_tensors),
    "qwen3_next": Writer(A.QWEN3NEXT, qwen3_next_keys, qwen3_next_tensors),
    "falcon_h1": Writer(A.FALCON_H1, falcon_h1_keys, falcon_h1_tensors),
    "glm4": Writer(A.GLM4, glm4_keys),
    "starcoder2": Writer(A.STARCODER2, starcoder2_keys),
    "stablelm": Writer(A.STABLELM, stablelm_keys, stablelm_tensors),
    "gpt_oss": Writer(A.GPT_OSS, gpt_oss_keys, gpt_oss_tensors),
    "glm4_moe": Writer(A.GLM4_MOE, glm4_moe_keys),
    "deepseek_v2": Writer(A.DEEPSEEK2, deepseek_keys, deepseek_tensors),
    "deepseek_v3": Writer(A.DEEPSEEK2, deepseek_keys, deepseek_tensors),
}


def stack_experts(tensors: Tensors) -> Tensors:
    """Join the matrices of all experts to one tensor with a name that the package gguf knows."""
    parts: dict[str, dict[int, NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        match = re.search(r"experts\.(\d+)\.", name)
        joined = re.sub(r"experts\.\d+\.", "experts.", name)
        parts.setdefault(joined, {})[int(match[1]) if match else -1] = tensor
    return {
        name: found[-1] if -1 in found else np.stack([found[n] for n in sorted(found)])
        for name, found in parts.items()
    }


def rename(tensors: Tensors, arch: gguf.MODEL_ARCH, layers: int) -> Tensors:
    """Give tensors the package gguf's names for Hugging Face's."""
    table = gguf.get_tensor_name_map(arch, layers)
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(f"model.layers.{layers}."):
            continue  # predicts further tokens
        known = name.replace("e_score_correction_bias", "e_score_correction.bias")
        found[table.get_name(known, try_suffixes=(".weight", ".bias")) or name] = tensor
    return found
