"""DeepSeek-V3, V3.1 and R1: multi-head latent attention, and experts of which one is shared.

DeepSeek-AI 2024 (DeepSeek-V3 technical report), 2025 (DeepSeek-R1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families.config import Config
from dllama.converter.families.latents import KEYS as LATENTS
from dllama.converter.families.latents import latent_sources, read_latents
from dllama.converter.families.routed import KEYS as ROUTED
from dllama.converter.families.routed import mlp_sources, read_routed
from dllama.converter.families.source import Source, with_experts
from dllama.errors import UnsupportedError
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("deepseek_v3",)
ARCHITECTURES = ("DeepseekV3ForCausalLM",)
KEYS = LATENTS | ROUTED | {"scoring_func", "topk_method"}

ONLY = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
DEFAULTS: Config = {
    "first_k_dense_replace": 3, "n_group": 8, "routed_scaling_factor": 2.5, "topk_group": 4,
}  # fmt: skip


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    for field, value in ONLY.items():
        if config.get(field) not in (None, value):
            found = config[field]
            raise UnsupportedError(f"{path}: {field} {found!r} is not supported, only {value}")
    spec = read_latents(config, weights, path)
    given = fields.completed(config, DEFAULTS)
    return replace(spec, **read_routed(given, spec.n_layers, path))


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return with_experts(
        latent_sources(spec),
        lambda at: mlp_sources(at, spec.n_experts, "shared_experts", correction=True),
        spec.dense,
    )
