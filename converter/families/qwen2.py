"""Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen: Llama with biases on q, k and v.

Yang et al. 2024 (Qwen2 technical report), DeepSeek-AI 2025 (DeepSeek-R1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.source import Source
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen2",)
ARCHITECTURES = ("Qwen2ForCausalLM",)
KEYS = llama.KEYS

BIASES = {"q": "q_bias", "k": "k_bias", "v": "v_bias"}


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    context = fields.context(config, path, fields.last_layers(config, path), flagged=True)
    given = {**config, "sliding_window": None, "layer_types": None}
    return replace(llama.read_config(given, weights, path), qkv_bias=True, **context)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file.

    Rows of q and k, and their biases, are reordered so that RoPE rotates adjacent pairs.
    """
    for source in llama.sources(spec):
        yield source
        if source.name.endswith(".o"):
            at = source.name.removesuffix("o")
            layer = source.tensor.removesuffix("o_proj.weight")
            for name, bias in BIASES.items():
                heads = {"q": spec.n_heads, "k": spec.n_kv_heads}.get(name, 0)
                yield Source(at + bias, f"{layer}{name}_proj.bias", paired_heads=heads)
