"""DeepSeek-V2 and V2-Lite: multi-head latent attention, and experts of which some are shared.

DeepSeek-AI 2024 (DeepSeek-V2). The router scores experts by softmax. Weights of a token's experts
are not scaled to add up to 1. A group of experts counts as its best.
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

MODEL_TYPES = ("deepseek_v2",)
ARCHITECTURES = ("DeepseekV2ForCausalLM",)
KEYS = LATENTS | ROUTED | {"scoring_func", "topk_method"}

METHODS = ("greedy", "group_limited_greedy")
# Values of fields that a config.json may leave out.
DEFAULTS: Config = {
    "first_k_dense_replace": 0, "n_shared_experts": 2, "norm_topk_prob": False,
    "scoring_func": "softmax", "topk_method": "greedy",
}  # fmt: skip


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = fields.completed(config, DEFAULTS)
    fields.refuse_set(given, ("norm_topk_prob",), path)
    known = {"scoring_func": ("softmax",), "topk_method": METHODS}
    for field, values in known.items():
        if given[field] not in values:
            supported = ", ".join(values)
            raise UnsupportedError(
                f"{path}: {field} {given[field]!r} is not supported, only {supported}"
            )
    if given["topk_method"] == "greedy":
        given = {**given, "n_group": 1, "topk_group": 1}
    spec = read_latents(given, weights, path)
    routed = read_routed(given, spec.n_layers, path)
    if "expert_group_best" in routed:
        routed["expert_group_best"] = 1
    return replace(spec, **{**routed, "router_sigmoid": False, "router_correction": False})


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return with_experts(
        latent_sources(spec),
        lambda at: mlp_sources(at, spec.n_experts, "shared_experts"),
        spec.dense,
    )
