"""Qwen3.5-MoE, text: Qwen3.5 with experts, one of which all tokens share.

Qwen team 2025 (Qwen3-Next). The result of the shared expert is multiplied by the sigmoid of a
product with its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import keys, qwen3_5
from dllama.converter.families.config import Config
from dllama.converter.families.routed import gated_sources, read_gated
from dllama.converter.families.source import Source
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen3_5_moe_text",)
ARCHITECTURES = ("Qwen3_5MoeForCausalLM",)
KEYS = (
    qwen3_5.KEYS
    | keys.EXPERTS
    | {"mlp_only_layers", "moe_intermediate_size", "norm_topk_prob"}
    | {"shared_expert_intermediate_size"}
)
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "moe_intermediate_size": 512, "num_experts_per_tok": 8, "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512,
}  # fmt: skip
EXPERTS = 256


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    if not given.get("num_local_experts"):
        given = fields.completed(given, {"num_experts": EXPERTS})
    fields.refuse_set(given, ("mlp_only_layers",), path)
    experts = read_gated(given, path, normalised=True)
    # No layer has a feed-forward network, whose width may be absent.
    dense = fields.completed(given, {"intermediate_size": experts["moe_hidden_dim"]})
    return replace(qwen3_5.read_config(dense, weights, path), **experts)


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return gated_sources(qwen3_5.sources(spec), spec)
