"""Configs of models with shared experts, and with routers as in DeepSeek-V3.

DeepSeek-AI 2024 (DeepSeekMoE; DeepSeek-V3): a router scores experts by sigmoids. A correction is
added for the choice of experts, which are those of the best groups; a group counts as its two best.
All tokens also take a shared expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dllama.checks import is_integer
from dllama.converter.families import config as fields
from dllama.converter.families.config import Config
from dllama.converter.families.source import Source, expert_sources, with_experts
from dllama.errors import FormatError
from dllama.model.spec import ModelSpec

# Fields of config.json that read_routed reads.
KEYS = frozenset({
    "first_k_dense_replace", "moe_intermediate_size", "n_group", "n_routed_experts",
    "n_shared_experts", "norm_topk_prob", "num_experts_per_tok", "num_nextn_predict_layers",
    "routed_scaling_factor", "topk_group",
})  # fmt: skip
PROJECTIONS = ("gate_proj", "down_proj", "up_proj")


def read_routed(config: Config, layers: int, path: object) -> dict[str, Any]:
    """The fields of a ModelSpec that describe the experts of DeepSeek-V3 and GLM-4-MoE.

    Args:
        config: a config.json.
        layers: how many the model has.
        path: the file, for messages.
    """
    count, taken = fields.experts(config, path, ("n_routed_experts",))
    width = fields.size(config, "moe_intermediate_size", path)
    first = config.get("first_k_dense_replace", 1)
    if not is_integer(first, 0, layers - 1):
        raise FormatError(path, "first_k_dense_replace", repr(first), f"0 to {layers - 1}")
    return {
        "n_experts": count,
        "n_active_experts": taken,
        "moe_hidden_dim": width,
        "shared_hidden_dim": width * fields.size(config, "n_shared_experts", path, 1),
        "dense": tuple(range(first)),
        "topk_normalised": fields.flag(config, "norm_topk_prob", path, True),
        "router_sigmoid": True,
        "router_correction": True,
        "expert_scale": fields.number(config, "routed_scaling_factor", path, 1.0),
        **_groups(config, count, taken, path),
    }


def read_gated(config: Config, path: object, normalised: bool) -> dict[str, Any]:
    """The fields of a ModelSpec that describe experts beside a shared one that has a gate (Qwen).

    Args:
        config: a config.json.
        path: the file, for messages.
        normalised: norm_topk_prob, if the config does not say.
    """
    count, taken = fields.experts(config, path)
    return {
        "n_experts": count,
        "n_active_experts": taken,
        "moe_hidden_dim": fields.size(config, "moe_intermediate_size", path),
        "shared_hidden_dim": fields.size(config, "shared_expert_intermediate_size", path),
        "shared_gate": True,
        "topk_normalised": fields.flag(config, "norm_topk_prob", path, normalised),
    }


def gated_sources(sources: Iterable[Source], spec: ModelSpec) -> Iterator[Source]:
    """Sources of a model without experts, with those of experts as read_gated describes them."""
    return with_experts(
        sources,
        lambda at: mlp_sources(at, spec.n_experts, "shared_expert", "shared_expert_gate"),
        spec.dense,
    )


def _groups(config: Config, count: int, taken: int, path: object) -> dict[str, int]:
    """The groups of experts; none if a token may take experts of all."""
    groups = fields.size(config, "n_group", path, 1)
    kept = fields.size(config, "topk_group", path, 1)
    if count % groups:
        raise FormatError(path, "n_group", groups, f"a divisor of {count} experts")
    if kept > groups or kept * (count // groups) < taken:
        expected = f"up to {groups} groups, with at least {taken} experts"
        raise FormatError(path, "topk_group", kept, expected)
    if kept == groups:
        return {}
    return {"expert_groups": groups, "expert_groups_taken": kept, "expert_group_best": 2}


def mlp_sources(
    at: str, count: int, shared: str, gate: str = "", correction: bool = False
) -> Iterator[Source]:
    """The router, the experts and the shared expert of a layer, in the order of the model file.

    Args:
        at: prefix of the layer in the model file.
        count: number of experts.
        shared: name of the shared expert.
        gate: name of the matrix whose product its result is multiplied by; empty if none is.
        correction: whether the router has a correction.
    """
    mlp = f"model.{at}mlp"
    yield Source(f"{at}router", f"{mlp}.gate.weight")
    if correction:
        yield Source(f"{at}router_correction", f"{mlp}.gate.e_score_correction_bias")
    if gate:
        yield Source(f"{at}shared_gate", f"{mlp}.{gate}.weight")
    yield from expert_sources(at, count, f"{mlp}.experts.{{}}", PROJECTIONS, f"{mlp}.experts")
    for ours, theirs in zip(("gate", "down", "up"), PROJECTIONS, strict=True):
        yield Source(f"{at}shared.{ours}", f"{mlp}.{shared}.{theirs}.weight")
