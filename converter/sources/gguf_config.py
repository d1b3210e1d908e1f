"""Translates GGUF metadata and tensor names to Hugging Face's.

Keys and names are those of gguf-py/gguf/constants.py of github.com/ggml-org/llama.cpp. Its
converter writes the architecture "llama" for everything built like Llama, Mistral or Mixtral.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dllama.checks import expected_text, is_integer, is_number, shown
from dllama.converter.sources.gguf_header import typed
from dllama.converter.sources.gguf_keys import Metadata, check_keys
from dllama.errors import FormatError, UnsupportedError

log = logging.getLogger("dllama.convert")

# model_type of config.json for each architecture.
MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
               "granite": "granite", "smollm3": "smollm3"}  # fmt: skip
# Architectures whose rows of q and k llama.cpp's converter orders for RoPE on adjacent pairs.
PAIRED = ("llama", "granite", "smollm3")


class Field(NamedTuple):
    """A key of the metadata, after the architecture and a dot, as a field of config.json.

    Args:
        name: of the field.
        least: smallest value.
        whole: whether it is an integer.
        required: whether every file has the key.
    """

    name: str
    least: int = 1
    whole: bool = True
    required: bool = False


FIELDS = {
    "context_length": Field("max_position_embeddings", required=True),
    "embedding_length": Field("hidden_size", required=True),
    "block_count": Field("num_hidden_layers", required=True),
    "feed_forward_length": Field("intermediate_size", required=True),
    "attention.head_count": Field("num_attention_heads", required=True),
    "attention.head_count_kv": Field("num_key_value_heads"),
    "attention.key_length": Field("head_dim"),
    "attention.layer_norm_rms_epsilon": Field("rms_norm_eps", 0, whole=False, required=True),
    "rope.freq_base": Field("rope_theta", 0, whole=False),
    "attention.sliding_window": Field("sliding_window", 0),
    "expert_count": Field("num_experts", 0),
    "expert_used_count": Field("num_experts_per_tok", 0),
    "expert_feed_forward_length": Field("moe_intermediate_size", 0),
}
# Granite's multipliers; 0 stands for none.
GRANITE = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "attention.scale": "attention_multiplier",
    "logit_scale": "logits_scaling",
}
# The factor of linear RoPE scaling; 0 stands for none.
LINEAR = ("rope.scaling.factor", "rope.scale_linear")
# Keys that must say the size of a head, and those that are compared with something else.
HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
COMPARED = (*HEAD_SIZES, "attention.scale", "attention.sliding_window_pattern")
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
    multipliers = GRANITE if arch == "granite" else {}
    linear = LINEAR if _is_linear(metadata, arch) else ()
    check_keys(metadata, arch, (*FIELDS, *COMPARED, *multipliers, *linear), path)
    found = dict(_fields(metadata, arch, path))
    window = found.pop("sliding_window", 0)
    config: dict[str, Any] = {
        **found,
        "model_type": MODEL_TYPES[arch],
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    config.setdefault("rope_theta", 10000.0)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    config["rope_scaling"] = _rope_scaling(arch, config, factors, path)
    factor = _factor(metadata, arch, path) if linear else 1
    if factor != 1:
        if config["rope_scaling"]:
            raise UnsupportedError(f"{path}: linear RoPE scaling beside {FREQUENCIES}")
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    if multipliers:
        config["attention_multiplier"] = 1 / math.sqrt(config["head_dim"])
        config |= _multipliers(metadata, arch, path)
    if window:
        config |= {"sliding_window": window, "use_sliding_window": True}
    _check_biases(arch, tensors, path)
    _add_experts(config, arch, path)
    _check_heads(metadata, arch, config, path)
    _check_window(metadata, arch, window, path)
    return config


def _fields(metadata: Metadata, arch: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the fields of config.json that keys of the metadata give."""
    for name, field in FIELDS.items():
        key = f"{arch}.{name}"
        value = _scalar(metadata, key, path) if key in metadata else None
        if value is None and not field.required:
            continue
        good = (
            is_integer(value, field.least)
            if field.whole
            else is_number(value, field.least, above=True)
        )
        if not good:
            noun = "an integer" if field.whole else "a number"
            expected = expected_text(noun, field.least, math.inf, not field.whole)
            raise FormatError(path, key, "missing" if value is None else shown(value), expected)
        yield field.name, value


def _multipliers(metadata: Metadata, arch: str, path: Path) -> dict[str, float]:
    """Return Granite's multipliers as fields of config.json."""
    found = {}
    for name, field in GRANITE.items():
        key = f"{arch}.{name}"
        value = _scalar(metadata, key, path) if key in metadata else 0
        if not is_number(value, 0):
            raise FormatError(path, key, shown(value), "a number of at least 0")
        if value:
            found[field] = value
    return found


def _add_experts(config: dict[str, Any], arch: str, path: Path) -> None:
    """Turn the numbers of experts into what the families read."""
    count = config.get("num_experts", 0)
    if arch == "qwen3moe":  # with what llama.cpp assumes
        width = config["intermediate_size"] // (config.get("num_experts_per_tok") or 1)
        config["moe_intermediate_size"] = config.get("moe_intermediate_size") or width
        config["norm_topk_prob"] = True
        return
    fields = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    values = {field: config.pop(field, 0) for field in fields}
    if arch == "llama" and count:
        if values.pop("moe_intermediate_size") not in (0, config["intermediate_size"]):
            raise UnsupportedError(
                f"{path}: llama.expert_feed_forward_length differs from feed_forward_length"
            )
        config |= {**values, "num_local_experts": count, "model_type": "mixtral"}
    elif any(values.values()):
        raise UnsupportedError(f"{path}: experts are not supported for this architecture: {arch}")


def vocabulary(metadata: Metadata, rows: int, path: Path) -> int:
    """Return the size of the vocabulary: the rows of the embedding. Warn if a key says another."""
    key = f"{metadata['general.architecture']}.vocab_size"
    if metadata.get(key, rows) != rows:
        log.warning("%s: %s is %s, the embedding has %d rows", path, key, metadata[key], rows)
    return rows


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


def usual_names(layers: int) -> Iterator[str]:
    """Yield GGUF's names of tensors with a fixed name, but for an output matrix of its own."""
    for stem in NAMES:
        if stem.startswith(("attn", "ffn")):
            yield from (f"blk.{layer}.{stem}.weight" for layer in range(layers))
        elif stem != "output":
            yield f"{stem}.weight"


def _check_biases(arch: str, tensors: Collection[str], path: Path) -> None:
    """UnsupportedError names a bias; Qwen2 has those of q, k and v."""
    known = (".attn_q.bias", ".attn_k.bias", ".attn_v.bias") if arch == "qwen2" else ()
    for name in tensors:
        if name.endswith(".bias") and not name.endswith(known):
            raise UnsupportedError(
                f"{path}: {name}: this bias is not supported for architecture {arch}"
            )


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
    """UnsupportedError if the sizes of q/k heads, v heads and RoPE differ, or for another scale of
    scores than 1 / sqrt(size).
    """
    size = config["head_dim"]
    for name in HEAD_SIZES:
        key = f"{arch}.{name}"
        found = _scalar(metadata, key, path) if key in metadata else size
        if found != size:
            raise UnsupportedError(f"{path}: {key} is {shown(found)}, only {size} is supported")
    key, usual = f"{arch}.attention.scale", 1 / math.sqrt(size)
    scale = metadata.get(key) or usual
    if arch == "granite":  # has any scale
        return
    if not is_number(scale) or not math.isclose(scale, usual, rel_tol=1e-6):
        raise UnsupportedError(f"{path}: {key} is {shown(scale)}, only {usual:.8g} is supported")


def _check_window(metadata: Metadata, arch: str, window: int, path: Path) -> None:
    """UnsupportedError if only some layers have the sliding window."""
    key = f"{arch}.attention.sliding_window_pattern"
    if window and key in metadata:
        raise UnsupportedError(f"{path}: {key} {shown(metadata[key])} is not supported")


def _is_linear(metadata: Metadata, arch: str) -> bool:
    """Whether a factor of RoPE scaling divides all frequencies: also if no type is given."""
    kind = metadata.get(f"{arch}.rope.scaling.type", "linear")
    return isinstance(kind, str) and kind == "linear"


def _factor(metadata: Metadata, arch: str, path: Path) -> float:
    """Return the factor of linear RoPE scaling; 1 if there is none."""
    for name in LINEAR:
        key = f"{arch}.{name}"
        value = _scalar(metadata, key, path) if key in metadata else 0
        if not is_number(value, 0):
            raise FormatError(path, key, shown(value), "a number of at least 0")
        if value:
            return float(value)
    return 1.0


def _rope_scaling(
    arch: str,
    config: dict[str, Any],
    factors: NDArray[np.float32] | None,
    path: Path,
) -> dict[str, Any] | None:
    """Build rope_scaling of a config.json from Llama 3.1's factors, if there are any."""
    if factors is None:
        return None
    if arch != "llama":
        raise UnsupportedError(f"{path}: {FREQUENCIES} is not supported for architecture {arch}")
    count = config["head_dim"] // 2
    if len(factors) != count:
        raise FormatError(path, FREQUENCIES, f"{len(factors)} factors", f"{count} factors")
    if (factors == 1).all():
        return None
    theta = config["rope_theta"]
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
