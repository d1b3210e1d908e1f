"""Qwen3.5, text: gated delta networks in most layers, gated attention in the others.

Qwen team 2025 (Qwen3-Next), Yang et al. 2024 (arXiv 2412.06464), Qiu et al. 2025 (arXiv
2505.06708). Norms are stored less 1, but for that of a gated delta network. Rows of q_proj are
those of q and of a gate, head by head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import OBJECTS, unpaired
from dllama.converter.families.source import EMBEDDING, NAMES, Place, Source
from dllama.converter.sources.views import HeadRows
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.tensors import tensors
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen3_5_text",)
ARCHITECTURES = ("Qwen3_5ForCausalLM",)
# Fields of a ModelSpec, the fields of config.json that they are, and the default values of these.
SIZES = {
    "linear_key_heads": ("linear_num_key_heads", 16),
    "linear_value_heads": ("linear_num_value_heads", 32),
    "linear_key_dim": ("linear_key_head_dim", 128),
    "linear_value_dim": ("linear_value_head_dim", 128),
    "linear_taps": ("linear_conv_kernel_dim", 4),
}
KEYS = llama.KEYS | {
    *(field for field, _ in SIZES.values()),
    "attn_output_gate", "full_attention_interval", "mamba_ssm_dtype", "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
}  # fmt: skip
# Values of other fields that a config.json may leave out.
DEFAULTS: Config = {
    "head_dim": 256, "max_position_embeddings": 32768, "num_attention_heads": 16,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": 248320,
}  # fmt: skip
PARTIAL = 0.25
INTERVAL = 4
LINEAR = "linear_attention"
# How the positions of images are dealt out to pairs; those of text are all the same.
IMAGES = ("mrope_interleaved", "mrope_section")
LINEAR_NAMES = {
    "linear_z": "in_proj_z.weight", "beta": "in_proj_b.weight", "decay": "in_proj_a.weight",
    "linear_o": "out_proj.weight", "a_log": "A_log", "dt_bias": "dt_bias",
    "linear_norm": "norm.weight",
}  # fmt: skip


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    fields.refuse_set(given, ("attention_bias", "mlp_bias", "use_sliding_window"), path)
    if not fields.flag(given, "attn_output_gate", path, True):
        raise UnsupportedError(f"{path}: attn_output_gate false is not supported")
    if given.get("mamba_ssm_dtype") not in (None, "float32"):
        raise UnsupportedError(
            f"{path}: mamba_ssm_dtype {given['mamba_ssm_dtype']!r} is not supported, only 'float32'"
        )
    plain = {**given, "layer_types": None, "sliding_window": None}
    plain |= {name: _text_rope(given[name]) for name in OBJECTS if given.get(name)}
    linear = _linear(given, path)
    sizes: dict[str, Any] = {
        ours: fields.size(given, theirs, path, default)
        for ours, (theirs, default) in (SIZES if linear else {}).items()
    }
    return replace(
        unpaired(llama.read_config(plain, weights, path, partial=PARTIAL)),
        qk_norm=QKNorm.HEAD,
        attention_gate=True,
        linear=linear,
        **sizes,
    )


def _text_rope(rope: Any) -> Any:
    """RoPE without what only counts for images."""
    if not isinstance(rope, dict):
        return rope
    return {key: value for key, value in rope.items() if key not in IMAGES}


def _linear(config: Config, path: object) -> tuple[int, ...]:
    """The layers with linear attention: those of layer_types, or all but every few."""
    count = fields.size(config, "num_hidden_layers", path)
    kinds = config.get("layer_types")
    if kinds is None:
        interval = fields.size(config, "full_attention_interval", path, INTERVAL)
        return tuple(layer for layer in range(count) if (layer + 1) % interval)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise FormatError(path, "layer_types", repr(kinds), f"a list of {count} types")
    for kind in kinds:
        if kind not in ("full_attention", LINEAR):
            raise UnsupportedError(f"{path}: layer_types has {kind!r}, which is not supported")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == LINEAR)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    for tensor in tensors(replace(spec, tied=False, n_experts=0)):
        at, _, name = tensor.name.rpartition(".")
        plus = 1.0 if name.endswith("norm") and name != "linear_norm" else 0.0
        if at:
            place = _place(spec, f"model.{at}", name)
            yield Source(tensor.name, place.tensor, place, plus=plus)
        elif name == "final_norm":
            yield Source(name, "model.norm.weight", plus=plus)
        elif name == "output":
            yield Source(name, "lm_head.weight", tied_to=EMBEDDING)
        else:
            yield Source(name, EMBEDDING)


def _place(spec: ModelSpec, at: str, name: str) -> Place:
    """Where a tensor of a layer is."""
    linear, sizes = f"{at}.linear_attn", spec.linear_sizes
    if name in ("q", "q_gate"):
        query = f"{at}.{NAMES['q']}.weight"
        size, first = spec.head_dim, spec.head_dim if name == "q_gate" else 0
        return Place(query, heads=HeadRows(spec.n_heads, 2 * size, first, size, False))
    if name in ("linear_q", "linear_k", "linear_v"):
        first = {"linear_q": 0, "linear_k": sizes.keys, "linear_v": 2 * sizes.keys}[name]
        rows = sizes.values if name == "linear_v" else sizes.keys
        return Place(f"{linear}.in_proj_qkv.weight", first, sizes.channels, rows)
    if name == "conv":
        return Place(f"{linear}.conv1d.weight", layout="flat")
    if name in LINEAR_NAMES:
        return Place(f"{linear}.{LINEAR_NAMES[name]}")
    return Place(f"{at}.{NAMES[name]}.weight")
