"""What llama.cpp's converter makes of each model_type: keys of the metadata, and tensors.

Names are left to the package gguf, which has the same tables. A key comes without the architecture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from oracle.huggingface import paired

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


def moe_keys(config: Config) -> Config:
    """Qwen with experts."""
    return {
        **base(config),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.get("shared_expert_intermediate_size"),
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


def rotated(config: Config) -> int:
    """Numbers of a head that RoPE rotates."""
    return int(head_dim(config) * full_rope(config).get("partial_rotary_factor", 1))


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
        **glm4_keys(config),
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
    "phi3": Writer(A.PHI3, phi3_keys, phi3_tensors),
    "olmo2": Writer(A.OLMO2, olmo2_keys),
    "exaone4": Writer(A.EXAONE4, exaone4_keys),
    "granitemoe": Writer(A.GRANITE_MOE, granite_keys, granite_moe_tensors),
    "glm4": Writer(A.GLM4, glm4_keys),
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
