"""Writes GGUF files like llama.cpp's converter, with the gguf package's writer and names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from oracle.huggingface import paired, read_safetensors

Tensors = dict[str, NDArray[Any]]
Type = gguf.GGMLQuantizationType
ARCHS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
         "qwen3": gguf.MODEL_ARCH.QWEN3, "qwen3moe": gguf.MODEL_ARCH.QWEN3MOE,
         "granite": gguf.MODEL_ARCH.GRANITE, "smollm3": gguf.MODEL_ARCH.SMOLLM3}  # fmt: skip
FAMILIES = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe"}


def write_folder(path: Path, folder: Path, kind: str = "F32", **metadata: Any) -> dict[str, Any]:
    """Write the model of a Hugging Face folder, with matrices in a type of the gguf package.

    Returns:
        The tensors as NumPy arrays of bytes, by GGUF's names.
    """
    config = json.loads((folder / "config.json").read_text())
    arch = FAMILIES.get(config["model_type"], config["model_type"])
    tensors: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(read_safetensors(file))
    if arch in ("llama", "granite", "smollm3"):
        pair(tensors, config["num_attention_heads"], config["num_key_value_heads"])
    renamed = rename(stack_experts(tensors), arch, config["num_hidden_layers"])
    rope = config["rope_parameters"]
    if rope["rope_type"] == "llama3":
        renamed["rope_freqs.weight"] = frequency_factors(rope, config["head_dim"])
    stored = {name: encode(name, tensor, kind) for name, tensor in renamed.items()}
    keys = {f"{arch}.{key}": value for key, value in settings(config).items()}
    write(path, arch, stored, {**keys, **metadata})
    return {name: array for name, (array, _) in stored.items()}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata for a config.json, without the architecture's prefix."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    keys = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.dimension_count": size,
        "rope.freq_base": config["rope_parameters"]["rope_theta"],
    }
    others = {
        "expert_count": config.get("num_experts") or config.get("num_local_experts"),
        "expert_used_count": config.get("num_experts_per_tok"),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
        "embedding_scale": config.get("embedding_multiplier"),
        "residual_scale": config.get("residual_multiplier"),
        "attention.scale": config.get("attention_multiplier"),
        "logit_scale": config.get("logits_scaling"),
    }
    if config["rope_parameters"]["rope_type"] == "linear":
        others["rope.scaling.type"] = "linear"
        others["rope.scaling.factor"] = config["rope_parameters"]["factor"]
    return keys | {key: value for key, value in others.items() if value is not None}


def keys(arch: str, **changes: Any) -> dict[str, Any]:
    """Return the metadata that every file has; `changes` come without the architecture."""
    values = {
        "context_length": 64, "embedding_length": 64, "block_count": 1, "feed_forward_length": 32,
        "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    return {f"{arch}.{key}": value for key, value in (values | changes).items()}


def pair(tensors: Tensors, heads: int, kv_heads: int) -> None:
    """Put the rows of q and k in the order of GGUF's llama architecture."""
    for name, tensor in tensors.items():
        for stem, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if stem in name:
                tensors[name] = paired(tensor, count)


def stack_experts(tensors: Tensors) -> Tensors:
    """Join the matrices of all experts to one tensor with a name that the gguf package knows."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for name in sorted(tensors):
        parts.setdefault(re.sub(r"experts\.\d+\.", "experts.", name), []).append(tensors[name])
    return {
        name: np.stack(found) if ".experts." in name else found[0] for name, found in parts.items()
    }


def rename(tensors: Tensors, arch: str, layers: int) -> Tensors:
    """Give tensors the gguf package's names for Hugging Face's."""
    table = gguf.get_tensor_name_map(ARCHS[arch], layers)
    return {
        table.get_name(n, try_suffixes=(".weight", ".bias")) or n: t for n, t in tensors.items()
    }


def frequency_factors(rope: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    """Return the factors for Llama 3.1's frequencies, case by case."""
    factors = []
    old = rope["original_max_position_embeddings"]
    low, high = old / rope["low_freq_factor"], old / rope["high_freq_factor"]
    for index in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (index / head_dim)
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


def encode(name: str, tensor: NDArray[Any], kind: str) -> tuple[NDArray[Any], Type]:
    """Return the bytes of a tensor and their type; vectors stay float32."""
    if tensor.ndim == 1:
        return tensor.astype(np.float32), Type.F32
    return gguf.quantize(tensor.astype(np.float32), Type[kind]), Type[kind]


def read(path: Path) -> tuple[dict[str, tuple[NDArray[Any], Type]], dict[str, Any]]:
    """Return the tensors of a file and the metadata that write() does not add by itself."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type)
               for tensor in reader.tensors}  # fmt: skip
    own = ("GGUF.", "general.architecture")
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith(own)}
    return tensors, fields


def write(
    path: Path,
    arch: str,
    tensors: dict[str, tuple[NDArray[Any], Type]],
    metadata: dict[str, Any],
) -> None:
    """Write a file with any tensors. Metadata has full keys; tuples become arrays of integers."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
