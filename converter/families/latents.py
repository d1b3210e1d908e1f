"""Configs and tensors of models with multi-head latent attention: DeepSeek-V2 and DeepSeek-V3.

DeepSeek-AI 2024 (DeepSeek-V2, section 2.1; DeepSeek-V3, section 2.1.1). One matrix makes keys and
values of all heads from a latent. In a model file it is two, and that of keys is transposed for
each head, since queries are multiplied by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import score_factor, unpaired
from dllama.converter.families.source import Place, Source, dense_sources
from dllama.converter.sources.views import HeadRows
from dllama.errors import FormatError, UnsupportedError
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

# Fields of config.json that read_latents reads or refuses.
KEYS = llama.KEYS | {
    "auto_map", "kv_lora_rank", "moe_layer_freq", "q_lora_rank", "qk_head_dim", "qk_nope_head_dim",
    "qk_rope_head_dim", "rope_interleave", "v_head_dim",
}  # fmt: skip
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
Q_RANK = 1536
NAMES = {
    "q_a": "self_attn.q_a_proj",
    "q_b": "self_attn.q_b_proj",
    "kv_a": "self_attn.kv_a_proj_with_mqa",
    "k_b": "self_attn.kv_b_proj",
    "v_b": "self_attn.kv_b_proj",
    "q_a_norm": "self_attn.q_a_layernorm",
    "kv_a_norm": "self_attn.kv_a_layernorm",
}


def read_latents(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json without experts; FormatError, UnsupportedError name the field."""
    given = fields.completed(config, DEFAULTS)
    fields.refuse_set(given, ("attention_bias", "mlp_bias", "sliding_window"), path)
    _check_code(given, path)
    if given.get("moe_layer_freq") not in (None, 1):
        found = given["moe_layer_freq"]
        raise UnsupportedError(f"{path}: moe_layer_freq {found!r} is not supported, only 1")
    sizes = {name: fields.size(given, name, path) for name in DEFAULTS}
    plain, rotated = sizes["qk_nope_head_dim"], sizes["qk_rope_head_dim"]
    heads = fields.size(given, "num_attention_heads", path)
    for field, expected in (
        ("head_dim", rotated), ("qk_head_dim", plain + rotated), ("num_key_value_heads", heads),
    ):  # fmt: skip
        if given.get(field) not in (None, expected):
            raise FormatError(path, field, repr(given[field]), f"{expected}, as others say")
    spec = llama.read_config({**given, "head_dim": rotated}, weights, path)
    if not fields.flag(given, "rope_interleave", path, True):
        spec = unpaired(spec)
    rank = config.get("q_lora_rank", Q_RANK)
    return replace(
        spec,
        n_kv_heads=1,
        head_dim=plain + rotated,
        rope_dim=rotated,
        kv_latent_dim=sizes["kv_lora_rank"],
        q_latent_dim=0 if rank is None else fields.size({"q_lora_rank": rank}, "q_lora_rank", path),
        value_dim=sizes["v_head_dim"],
        attention_scale=_scale(plain + rotated, score_factor(given, path)),
    )


def _scale(size: int, factor: float) -> float:
    """The factor of scores for heads of a size; 0 for the usual one."""
    return factor / math.sqrt(size) if factor != 1 else 0.0


def _check_code(config: Config, path: object) -> None:
    """UnsupportedError for a program of its own other than DeepSeek's, which is this family."""
    auto_map = config.get("auto_map") or {}
    name = auto_map.get("AutoModelForCausalLM") if isinstance(auto_map, dict) else auto_map
    known = [f"modeling_deepseek.{one}" for one in config.get("architectures") or []]
    if name is not None and name not in known:
        raise UnsupportedError(
            f"{path}: auto_map names {name!r}: the model has code of its own, which is not run"
        )


def latent_sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model without experts comes from, in the order of the file.

    GGUF files have the matrices of keys and of values apart, as model files do.
    """
    size = spec.plain_dim + spec.value_dim
    parts = {
        "k_b": HeadRows(spec.n_heads, size, 0, spec.plain_dim, turned=True),
        "v_b": HeadRows(spec.n_heads, size, spec.plain_dim, spec.value_dim, turned=False),
    }
    for source in dense_sources(spec, NAMES, adjacent=True):
        name = source.name.rpartition(".")[2]
        if name in parts:
            apart = Place(source.tensor.replace("kv_b_proj", f"{name}_proj"))
            place = Place(source.tensor, heads=parts[name])
            yield replace(source, place=place, others=(apart,))
        else:
            yield source
