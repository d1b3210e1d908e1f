"""Phi-3 and Phi-4: Llama whose q, k, v and whose gate, up are one tensor each.

Abdin et al. 2024 (Phi-3, Phi-4 technical reports). RoPE rotates halves of a part of each head.
"""

from __future__ import annotations

from collections.abc import Iterator

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.source import Source, dense_sources
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("phi3",)
ARCHITECTURES = ("Phi3ForCausalLM",)
KEYS = llama.KEYS

NAMES = {
    **dict.fromkeys("qkv", "self_attn.qkv_proj"),
    **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
}
DEFAULTS = {"rms_norm_eps": 1e-5}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("attention_bias", "mlp_bias"), path)
    given = fields.completed(config, DEFAULTS)
    return unpaired(llama.read_config(given, weights, path, partial=1.0))


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return dense_sources(spec, NAMES)
