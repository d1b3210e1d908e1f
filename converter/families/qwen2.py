"""Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen: Llama with biases on q, k and v.

Yang et al. 2024 (Qwen2 technical report), DeepSeek-AI 2025 (DeepSeek-R1).
"""

from __future__ import annotations

from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen2",)
ARCHITECTURES = ("Qwen2ForCausalLM",)
KEYS = llama.KEYS

sources = llama.sources


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("attention_bias", "mlp_bias"), path)
    context = fields.context(config, path, fields.last_layers(config, path), flagged=True)
    given = {**config, "sliding_window": None, "layer_types": None}
    return replace(llama.read_config(given, weights, path), qkv_bias=True, **context)
