"""Qwen3-MoE (30B-A3B, 235B-A22B): Qwen3 whose feed-forward network is a mixture of experts.

Yang et al. 2025 (Qwen3 technical report): a token takes the 8 best of 128 small experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import keys, qwen3
from dllama.converter.families.config import Config
from dllama.converter.families.source import Source, expert_sources, with_experts
from dllama.errors import UnsupportedError
from dllama.model.spec import Arch, ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen3_moe",)
ARCHITECTURES = ("Qwen3MoeForCausalLM",)
KEYS = (
    qwen3.KEYS
    | keys.EXPERTS
    | {"decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob"}
    | {"use_qk_norm"}
)


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    count, taken = fields.experts(config, path)
    if not fields.flag(config, "use_qk_norm", path, True):
        raise UnsupportedError(f"{path}: use_qk_norm false is not supported")
    spec = qwen3.read_config(config, weights, path, layered=False)
    return replace(
        spec,
        dense=fields.dense_layers(config, spec.n_layers, path),
        arch=Arch.QWEN3_MOE,
        n_experts=count,
        n_active_experts=taken,
        moe_hidden_dim=fields.size(config, "moe_intermediate_size", path),
        topk_normalised=fields.flag(config, "norm_topk_prob", path, False),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return with_experts(
        qwen3.sources(spec), lambda at: _expert_sources(at, spec.n_experts), spec.dense
    )


def _expert_sources(at: str, count: int) -> Iterator[Source]:
    """The router and the experts of a layer."""
    mlp = f"model.{at}mlp"
    yield Source(f"{at}router", f"{mlp}.gate.weight")
    names = ("gate_proj", "down_proj", "up_proj")
    yield from expert_sources(at, count, f"{mlp}.experts.{{}}", names, f"{mlp}.experts")
