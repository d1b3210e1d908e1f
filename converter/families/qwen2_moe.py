"""Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B: Qwen2 with experts, one of which all tokens share.

Yang et al. 2024 (Qwen2 technical report, section 2.2.2). The result of the shared expert is
multiplied by the sigmoid of a product with its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import keys, qwen2
from dllama.converter.families.config import Config
from dllama.converter.families.routed import gated_sources, read_gated
from dllama.converter.families.source import Source
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen2_moe",)
ARCHITECTURES = ("Qwen2MoeForCausalLM",)
KEYS = (
    qwen2.KEYS
    | keys.EXPERTS
    | {"decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob"}
    | {"qkv_bias", "shared_expert_intermediate_size"}
)


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    experts = read_gated(config, path, normalised=False)
    spec = qwen2.read_config(config, weights, path)
    return replace(
        spec,
        qkv_bias=fields.flag(config, "qkv_bias", path, True),
        dense=fields.dense_layers(config, spec.n_layers, path),
        **experts,
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return gated_sources(qwen2.sources(spec), spec)
