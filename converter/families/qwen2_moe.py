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
from dllama.converter.families.routed import mlp_sources
from dllama.converter.families.source import Source, with_experts
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
    count, taken = fields.experts(config, path)
    spec = qwen2.read_config(config, weights, path)
    return replace(
        spec,
        qkv_bias=fields.flag(config, "qkv_bias", path, True),
        dense=fields.dense_layers(config, spec.n_layers, path),
        n_experts=count,
        n_active_experts=taken,
        moe_hidden_dim=fields.size(config, "moe_intermediate_size", path),
        shared_hidden_dim=fields.size(config, "shared_expert_intermediate_size", path),
        shared_gate=True,
        topk_normalised=fields.flag(config, "norm_topk_prob", path, False),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return with_experts(
        qwen2.sources(spec),
        lambda at: mlp_sources(at, spec.n_experts, "shared_expert", "shared_expert_gate"),
        spec.dense,
    )
