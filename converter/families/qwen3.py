"""Qwen3: norms on the heads of q and k; the head size does not depend on dim / heads.

Yang et al. 2025 (Qwen3 technical report). RoPE rotates halves, so rows are not reordered.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.converter.families.rope import unpaired
from dllama.model.spec import Arch, ModelSpec, QKNorm
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("qwen3",)
ARCHITECTURES = ("Qwen3ForCausalLM",)
KEYS = llama.KEYS

sources = llama.sources

HEAD_DIM = 128  # if the config has none


def read_config(
    config: Config, weights: WeightType, path: object, layered: bool = True
) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field.

    Args:
        config: a config.json.
        weights: type of the matrices.
        path: the file, for messages.
        layered: whether some layers may have a sliding window and others none.
    """
    windowed = fields.last_layers(config, path) if layered else None
    context = fields.context(config, path, windowed, flagged=True)
    size = fields.size(config, "head_dim", path, HEAD_DIM)
    given = {**config, "head_dim": size, "sliding_window": None, "layer_types": None}
    fields.refuse_set(config, ("attention_bias", "mlp_bias"), path)
    spec = unpaired(llama.read_config(given, weights, path))
    return replace(spec, arch=Arch.QWEN3, qk_norm=QKNorm.HEAD, **context)
