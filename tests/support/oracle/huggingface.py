"""A reader of Hugging Face folders that shares no code with the converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllama.model.spec import Arch, ModelSpec, QKNorm, RopeScaling, RopeType
from dllama.model.weight_types import WeightType

ARCHS = {"qwen3": Arch.QWEN3, "qwen3_moe": Arch.QWEN3_MOE}
LAYER_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "down": "mlp.down_proj",
    "up": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "router": "mlp.gate",
}
MIXTRAL = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def read_folder(folder: Path) -> tuple[ModelSpec, dict[str, NDArray[np.float32]]]:
    """Spec and float32 tensors of a folder, named as dllama names them.

    q and k rows stay in Hugging Face's order: run forward with halves=True.
    """
    spec = read_spec(folder)
    stored: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored.update(read_safetensors(path))
    tensors = {
        "embedding": stored["model.embed_tokens.weight"],
        "final_norm": stored["model.norm.weight"],
        "output": stored.get("lm_head.weight", stored["model.embed_tokens.weight"]),
    }
    for layer in range(spec.n_layers):
        _read_layer(stored, layer, tensors)
    return spec, tensors


def _read_layer(stored: dict[str, Any], layer: int, tensors: dict[str, Any]) -> None:
    """All tensors of a layer that there are, whatever the family."""
    ours = {theirs: name for name, theirs in LAYER_NAMES.items()}
    prefix = f"model.layers.{layer}."
    for name, tensor in stored.items():
        if not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        for theirs, other in MIXTRAL.items():
            short = short.replace(theirs, other)
        short, _, kind = short.rpartition(".")
        expert = ""
        if short.startswith("mlp.experts."):
            number, short = short.removeprefix("mlp.experts.").split(".")
            expert, short = f"experts.{number}.", f"mlp.{short}"
        suffix = "_bias" if kind == "bias" else ""
        tensors[f"layers.{layer}.{expert}{ours[short]}{suffix}"] = tensor


def read_safetensors(path: Path, kinds: tuple[str, ...] = ()) -> dict[str, NDArray[np.float32]]:
    """All tensors of a .safetensors file, or those of some types, as float32."""
    data = path.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_size])
    header.pop("__metadata__", None)
    body = data[8 + header_size :]
    return {
        name: _tensor(body, entry)
        for name, entry in header.items()
        if not kinds or entry["dtype"] in kinds
    }


def _tensor(body: bytes, entry: dict[str, Any]) -> NDArray[np.float32]:
    begin, end = entry["data_offsets"]
    raw = body[begin:end]
    if entry["dtype"] == "BF16":
        flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        flat = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2", "U8": "u1"}[entry["dtype"]])
    return flat.astype(np.float32).reshape(entry["shape"])


def read_spec(folder: Path) -> ModelSpec:
    """The ModelSpec that config.json describes; weights count as float32."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {})}
    scaled = rope.get("rope_type", rope.get("type")) in ("linear", "llama3")
    heads = config["num_attention_heads"]
    experts = config.get("num_experts") or config.get("num_local_experts") or 0
    return ModelSpec(
        arch=ARCHS.get(config["model_type"], Arch.LLAMA),
        qk_norm=QKNorm.HEAD if config["model_type"] in ARCHS else QKNorm.NONE,
        n_experts=experts,
        n_active_experts=config["num_experts_per_tok"] if experts else 0,
        topk_normalised=config.get("norm_topk_prob", True),
        dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        n_layers=config["num_hidden_layers"],
        n_heads=heads,
        n_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        seq_len=config["max_position_embeddings"],
        weight_type=WeightType.F32,
        norm_epsilon=config["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        rope_type=RopeType.LLAMA31 if scaled else RopeType.LLAMA,
        rope_scaling=_scaling(rope) if scaled else None,
        no_rope=tuple(i for i, on in enumerate(config.get("no_rope_layers", [])) if not on),
        **_windows(config),
        embedding_scale=config.get("embedding_multiplier", 1.0),
        attention_scale=config.get("attention_multiplier", 0.0),
        logits_scale=1 / config.get("logits_scaling", 1.0),
    )


def _windows(config: dict[str, Any]) -> dict[str, Any]:
    """Which layers have a window: those of layer_types, or all."""
    layers = range(config["num_hidden_layers"])
    kinds = config.get("layer_types") or ["sliding_attention"] * len(layers)
    if not config.get("sliding_window") or not config.get("use_sliding_window", True):
        return {}
    windowed = tuple(layer for layer in layers if kinds[layer] == "sliding_attention")
    return {"window": config["sliding_window"], "windowed": windowed}


def residual_multiplier(folder: Path) -> float:
    """The factor of what each block adds to the residual stream."""
    config = json.loads((folder / "config.json").read_text())
    return float(config.get("residual_multiplier", 1.0))


def _scaling(rope: dict[str, Any]) -> RopeScaling:
    if "low_freq_factor" not in rope:  # linear: every frequency counts as low
        return RopeScaling(rope["factor"], 1.0, 2.0, 1)
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_seq_len=rope["original_max_position_embeddings"],
    )


def paired(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of heads, each with its first half at even places and its second half at odd ones."""
    out = np.empty_like(rows)
    for head in np.split(np.arange(len(rows)), heads):
        first, second = np.split(head, 2)
        out[head[0::2]], out[head[1::2]] = rows[first], rows[second]
    return out
