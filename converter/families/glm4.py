"""GLM-4 of 2025 (0414): norms before and behind blocks, RoPE on half of each head.

GLM team 2024 (ChatGLM: from GLM-130B to GLM-4). RoPE rotates adjacent pairs, so rows stay as they
are. Gate and up are one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.source import Source, dense_sources
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("glm4",)
ARCHITECTURES = ("Glm4ForCausalLM",)
KEYS = llama.KEYS

NAMES = {
    **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
    "attention_post_norm": "post_self_attn_layernorm",
    "ffn_post_norm": "post_mlp_layernorm",
}
DEFAULTS = {"head_dim": 128, "rms_norm_eps": 1.5625e-7}
PARTIAL = 0.5


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("mlp_bias",), path)
    given = fields.completed(config, DEFAULTS)
    spec = llama.read_config(given, weights, path, partial=PARTIAL)
    return replace(spec, o_bias=False, post_norms=True)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return dense_sources(spec, NAMES, adjacent=True)
