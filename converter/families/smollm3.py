"""SmolLM3: Llama with layers that do not rotate queries and keys (NoPE).

Bakouch et al. 2025 (SmolLM3). By default every fourth layer has no RoPE. A sliding window, if there
is one, is in these layers.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.checks import is_integer
from dllama.converter.families import config as fields
from dllama.converter.families import llama
from dllama.converter.families.config import Config
from dllama.errors import FormatError
from dllama.model.spec import ModelSpec
from dllama.model.weight_types import WeightType

MODEL_TYPES = ("smollm3",)
ARCHITECTURES = ("SmolLM3ForCausalLM",)
KEYS = llama.KEYS | {"no_rope_layer_interval", "no_rope_layers"}
THETA = 2e6

sources = llama.sources


def read_config(config: Config, weights: WeightType, path: object) -> ModelSpec:
    """The spec of a config.json; FormatError or UnsupportedError names path and field."""
    given = {**config, "sliding_window": None, "layer_types": None}
    spec = llama.read_config(given, weights, path, THETA)
    no_rope = _without(config, spec.n_layers, path)
    context = fields.context(config, path, no_rope, flagged=True)
    return replace(spec, no_rope=no_rope, **context)


def _without(config: Config, layers: int, path: object) -> tuple[int, ...]:
    """The layers without RoPE: a 0 in no_rope_layers, or else the last of every interval."""
    rotated = config.get("no_rope_layers")
    if rotated is None:
        interval = fields.size(config, "no_rope_layer_interval", path, 4)
        return tuple(range(interval - 1, layers, interval))
    if (
        not isinstance(rotated, list)
        or len(rotated) != layers
        or not all(is_integer(flag, 0) and flag <= 1 for flag in rotated)
    ):
        raise FormatError(path, "no_rope_layers", repr(rotated), f"{layers} times 0 or 1")
    return tuple(layer for layer, flag in enumerate(rotated) if not flag)
