"""GLM-4.5, GLM-4.5-Air and GLM-4.6: experts behind a few layers without, one of them shared.

GLM team 2025 (GLM-4.5: agentic, reasoning, and coding foundation models). RoPE rotates halves of
the first half of each head, so rows are not reordered. The router is that of DeepSeek-V3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.converter.families.routed import KEYS as ROUTED
from dllama.converter.families.routed import mlp_sources, read_routed
from dllama.converter.families.source import Source, with_experts
from dllama.model.spec import ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("glm4_moe",)
ARCHITECTURES = ("Glm4MoeForCausalLM",)
KEYS = llama.KEYS | ROUTED | {"use_qk_norm"}

DEFAULTS = {"rms_norm_eps": 1e-5}
PARTIAL = 0.5


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    fields.refuse_set(config, ("mlp_bias",), path)
    given = fields.completed(config, DEFAULTS)
    spec = unpaired(llama.read_config(given, weights, path, partial=PARTIAL))
    norms = fields.flag(config, "use_qk_norm", path, False)
    return replace(
        spec,
        o_bias=False,
        qk_norm=QKNorm.HEAD if norms else QKNorm.NONE,
        **read_routed(config, spec.n_layers, path),
    )


def sources(spec: ModelSpec) -> Iterator[Source]:
    """Where each tensor of the model file comes from, in the order of the file."""
    return with_experts(
        llama.sources(spec),
        lambda at: mlp_sources(at, spec.n_experts, "shared_experts", correction=True),
        spec.dense,
    )
